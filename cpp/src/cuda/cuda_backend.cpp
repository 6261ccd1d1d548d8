#include "cuda/cuda_backend.hpp"

#include <utility>

#include "cuda/cuda_check.hpp"
#include "cuda/device_layout.hpp"
#include "cuda/device_words.hpp"
#include "cuda/launches.hpp"
#include "cuda/selection.hpp"
#include "cuda/verdict.hpp"

namespace itop::cuda {
namespace {

/// Makes the device current and the stream known to its memory.
class Call {
 public:
  Call(int device_index, DeviceMemory& memory, StreamHandle stream) : guard_(device_index), stream_(stream_of(stream)) {
    memory.note(stream_);
  }
  cudaStream_t stream() const noexcept { return stream_; }

 private:
  DeviceGuard guard_;
  cudaStream_t stream_;
};

DeviceMemory memory_of(int device_index) {
  const DeviceGuard guard(device_index);
  return DeviceMemory(device_index);
}

}  // namespace

CudaBackend::CudaBackend(int device_index) : device_index_(device_index), memory_(memory_of(device_index)) {}

std::unique_ptr<WordBuffer> CudaBackend::allocate(std::int64_t num_words, Contents contents, StreamHandle stream) {
  const Call call(device_index_, memory_, stream);
  auto words = std::make_unique<DeviceWords>(device_index_, memory_, num_words, call.stream());
  if (contents == Contents::kZero) {
    check(cudaMemsetAsync(words->data(), 0, static_cast<std::size_t>(num_words) * sizeof(Word), call.stream()),
          "cudaMemsetAsync");
  }
  return words;
}

void CudaBackend::copy_to_host(const Word* source, std::span<Word> target, StreamHandle stream) {
  if (target.empty()) return;
  const Call call(device_index_, memory_, stream);
  check(cudaMemcpyAsync(target.data(), source, target.size_bytes(), cudaMemcpyDeviceToHost, call.stream()),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(call.stream()), "cudaStreamSynchronize");
}

void CudaBackend::copy_from_host(std::span<const Word> source, Word* target, StreamHandle stream) {
  if (source.empty()) return;
  const Call call(device_index_, memory_, stream);
  check(cudaMemcpyAsync(target, source.data(), source.size_bytes(), cudaMemcpyHostToDevice, call.stream()),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(call.stream()), "cudaStreamSynchronize");  // the source may go away now
}

void CudaBackend::complement(std::span<const LayerComplement> layers, StreamHandle stream) {
  const Call call(device_index_, memory_, stream);
  launch_complement(layers, call.stream());
}

void CudaBackend::combine(BitOperation operation, const Word* a, const Word* b, Word* target, std::int64_t num_words,
                          StreamHandle stream) {
  const Call call(device_index_, memory_, stream);
  launch_combine(operation, a, b, target, num_words, call.stream());
}

std::vector<std::int64_t> CudaBackend::count(const Word* words, std::span<const std::int64_t> offsets,
                                             StreamHandle stream) {
  if (offsets.size() < 2) return {};
  const Call call(device_index_, memory_, stream);
  Executor executor(memory_, call.stream());
  const std::size_t num_ranges = offsets.size() - 1;
  std::vector<std::int64_t> chunk_offsets{0};
  for (std::size_t i = 0; i < num_ranges; ++i) {
    chunk_offsets.push_back(chunk_offsets.back() + ceil_div(offsets[i + 1] - offsets[i], kChunkWords));
  }
  DeviceLayout layout;
  const auto words_begin = layout.table(offsets);
  const auto chunks_begin = layout.table(std::span<const std::int64_t>(chunk_offsets));
  const auto counts = layout.zeros<std::uint64_t>(static_cast<std::int64_t>(num_ranges));
  layout.materialise(executor);
  launch_count(words, layout.at(words_begin), layout.at(chunks_begin), chunk_offsets.back(),
               static_cast<int>(num_ranges), layout.at(counts), call.stream());
  std::vector<std::int64_t> result(num_ranges);
  executor.download(result.data(), layout.at(counts), static_cast<std::int64_t>(num_ranges * sizeof(std::int64_t)));
  return result;
}

void CudaBackend::unpack(const Word* words, std::uint8_t* bytes, std::int64_t numel, StreamHandle stream) {
  const Call call(device_index_, memory_, stream);
  launch_unpack(words, bytes, numel, call.stream());
}

void CudaBackend::pack(const std::uint8_t* bytes, Word* words, std::int64_t numel, StreamHandle stream) {
  const Call call(device_index_, memory_, stream);
  launch_pack(bytes, words, numel, call.stream());
}

std::shared_ptr<SelectionVerdict> CudaBackend::select(std::span<const Selection> selections, Reduction& reduction,
                                                      StreamHandle stream) {
  const Call call(device_index_, memory_, stream);
  Executor executor(memory_, call.stream());
  if (!reduction.is_local()) {
    select_over_parts(selections, reduction, executor);
    return nullptr;
  }
  std::vector<std::string> layers = layers_of(selections);
  constexpr std::int64_t flags_per_word = sizeof(Word) / sizeof(std::uint32_t);
  auto flags =
      std::make_unique<DeviceWords>(device_index_, memory_, num_flags(layers.size()) / flags_per_word, call.stream());
  select_here(selections, reinterpret_cast<std::uint32_t*>(flags->data()), executor);
  return std::make_shared<DeviceVerdict>(device_index_, std::move(layers), std::move(flags), call.stream());
}

std::vector<LayerCounts> CudaBackend::commit(std::span<const LayerCommit> layers, const CommitOptions& options,
                                             std::span<const std::shared_ptr<SelectionVerdict>> verdicts,
                                             StreamHandle stream) {
  if (layers.empty()) return {};
  const Call call(device_index_, memory_, stream);
  Executor executor(memory_, call.stream());
  Refusals refusals;
  for (const auto& verdict : verdicts) {
    const auto& on_device = static_cast<const DeviceVerdict&>(*verdict);
    if (on_device.is_known() || refusals.num_flags == Refusals::kCapacity) {
      verdict->check();
    } else {
      refusals.flags[refusals.num_flags++] = on_device.refusal();
    }
  }
  DeviceLayout layout;
  const auto num_counts = static_cast<std::int64_t>(layers.size()) * kCountPlaces * kCountFields;
  const auto counts = layout.zeros<std::uint64_t>(num_counts + 1);
  layout.materialise(executor);
  refusals.noted = layout.at(counts) + num_counts;
  const CommitPlan plan = commit_plan(layers, layout.at(counts));
  launch_commit(plan.zero_first, options, refusals, call.stream());
  launch_commit(plan.rows, options, refusals, call.stream());
  std::vector<std::uint64_t> result(static_cast<std::size_t>(num_counts) + 1);
  executor.download(result.data(), layout.at(counts), static_cast<std::int64_t>(result.size() * sizeof(std::uint64_t)));
  for (const auto& verdict : verdicts) {
    if (result.back() == 0) {
      static_cast<DeviceVerdict&>(*verdict).accept();
    } else {
      verdict->check();
    }
  }
  result.pop_back();
  return layer_counts(result);
}

void CudaBackend::apply(std::span<const LayerApply> layers, StreamHandle stream) {
  const Call call(device_index_, memory_, stream);
  launch_apply(apply_rows(layers), call.stream());
}

}  // namespace itop::cuda
