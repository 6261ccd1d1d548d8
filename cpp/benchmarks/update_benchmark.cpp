// Whole topology updates, and their parts, of ResNet-50's 54 weight tensors against reading weights and gradients once.

#include <cstdio>
#include <cstdlib>

#include "benchmark.hpp"
#include "itop/build_info.hpp"
#include "resnet50.hpp"

namespace itop::benchmark {
namespace {

constexpr double kDensity = 0.1;
constexpr double kDropFraction = 0.3;

enum class Growth { kRandom, kGradient };

/// Drop the smallest magnitudes, grow anywhere that was not kept, as `SparseEngine` does it.
class Update {
 public:
  explicit Update(MaskedModel& model) : model_(model) {
    for (const std::int64_t active : model.num_active) {
      num_changed_.push_back(static_cast<std::int64_t>(kDropFraction * static_cast<double>(active)));
    }
    weights_ = model.scores(model.weights);
    gradients_ = model.scores(model.gradients);
    changed_tensors_ = model.views({&model.weights, &model.momentum});
  }

  BitSets drop() {
    SelectRequest request;
    request.scores = weights_;
    request.order = SelectionOrder::kSmallest;
    request.k = num_changed_;
    request.update = ++number_;
    return model_.store.select(model_.store.active(), request, local_, 0);
  }

  BitSets grow(const BitSets& dropped, Growth growth) {
    const BitSets kept = model_.store.active().combined(BitOperation::kAndNot, dropped, 0);
    const BitSets candidates = kept.complement(0);
    SelectRequest request;
    if (growth == Growth::kGradient) {
      request.scores = gradients_;
    } else {
      request.scores.resize(model_.sizes.size());
    }
    request.k = num_changed_;
    request.update = number_;
    request.draw = 1;
    return model_.store.select(candidates, request, local_, 0);
  }

  void commit(const BitSets& dropped, const BitSets& grown) {
    model_.store.commit(dropped, grown, changed_tensors_, CommitOptions{}, 0);
  }

  /// Training in between: no weight stays at zero, where it was grown.
  void train() {
    model_.fill();
    model_.store.apply(changed_tensors_, 0);
  }

  void run(Growth growth) {
    const BitSets dropped = drop();
    commit(dropped, grow(dropped, growth));
  }

 private:
  MaskedModel& model_;
  std::vector<std::int64_t> num_changed_;
  std::vector<std::optional<TensorView>> weights_, gradients_;
  std::vector<std::vector<TensorView>> changed_tensors_;
  LocalReduction local_;
  std::uint32_t number_ = 0;
};

void run(int repetitions) {
  MaskedModel model(resnet50_sizes(), kDensity);
  Update update(model);
  const BuildInfo info = build_info();
  std::printf("%zu layers, %zu weights, density %.2f, drop fraction %.2f, %s, %d threads\n", model.sizes.size(),
              model.weights.size(), kDensity, kDropFraction, info.instruction_set.c_str(), info.num_threads);

  const auto read_both = [&] { use(read_once(model.weights) + read_once(model.gradients)); };
  const auto train = [&] { update.train(); };
  const double floor_before = milliseconds(repetitions, read_both);
  const double random = milliseconds(repetitions, [&] { update.run(Growth::kRandom); }, train);
  const double gradient = milliseconds(repetitions, [&] { update.run(Growth::kGradient); }, train);
  update.train();
  const double drop = milliseconds(repetitions, [&] { update.drop(); });
  const BitSets dropped = update.drop();
  const double grow_random = milliseconds(repetitions, [&] { update.grow(dropped, Growth::kRandom); });
  const double grow_gradient = milliseconds(repetitions, [&] { update.grow(dropped, Growth::kGradient); });
  const BitSets grown = update.grow(dropped, Growth::kRandom);
  const double commit = milliseconds(repetitions, [&] { update.commit(dropped, grown); });
  // The floor is taken before and after: a machine that is busy meanwhile then does not flatter the ratios.
  const double floor = std::min(floor_before, milliseconds(repetitions, read_both));

  print_line("reading weights and gradients once", floor, floor);
  print_line("update, random growth", random, floor);
  print_line("update, gradient growth", gradient, floor);
  print_line("  drop: smallest magnitudes", drop, floor);
  print_line("  grow: random", grow_random, floor);
  print_line("  grow: largest gradients", grow_gradient, floor);
  print_line("  commit: bits, zeroes in weights and momentum", commit, floor);
}

}  // namespace
}  // namespace itop::benchmark

int main(int argc, char** argv) {
  itop::benchmark::run(argc > 1 ? std::atoi(argv[1]) : 15);
  return 0;
}
