#pragma once

#include <barrier>
#include <cstdint>
#include <exception>
#include <functional>
#include <span>
#include <stdexcept>
#include <thread>
#include <vector>

#include "itop/reduction.hpp"

namespace itop::testing {

/// Several parts in one process, a thread each, as ranks would be: sums meet at a barrier.
class Parts {
 public:
  explicit Parts(int num_parts) : barrier_(num_parts), contributions_(static_cast<std::size_t>(num_parts)) {}

  int num_sums() const { return num_sums_; }

  /// Runs `body(part, reduction)` on a thread a part; returns what each threw, null where nothing.
  std::vector<std::exception_ptr> run(const std::function<void(std::size_t, Reduction&)>& body) {
    std::vector<std::exception_ptr> errors(contributions_.size());
    std::vector<std::thread> threads;
    for (std::size_t part = 0; part < contributions_.size(); ++part) {
      threads.emplace_back([&, part] {
        PartReduction reduction(*this, part);
        try {
          body(part, reduction);
        } catch (...) {
          errors[part] = std::current_exception();
        }
      });
    }
    for (auto& thread : threads) thread.join();
    return errors;
  }

 private:
  class PartReduction final : public Reduction {
   public:
    PartReduction(Parts& parts, std::size_t part) : parts_(parts), part_(part) {}

    void sum(std::span<std::int64_t> counts) override {
      parts_.contributions_[part_].assign(counts.begin(), counts.end());
      if (part_ == 0) ++parts_.num_sums_;
      parts_.barrier_.arrive_and_wait();
      bool agree = true;
      for (const auto& other : parts_.contributions_) agree = agree && other.size() == counts.size();
      for (std::size_t i = 0; agree && i < counts.size(); ++i) {
        counts[i] = 0;
        for (const auto& other : parts_.contributions_) counts[i] += other[i];
      }
      parts_.barrier_.arrive_and_wait();
      if (!agree) throw std::logic_error("the parts disagree about what they sum");
    }
    bool is_local() const noexcept override { return false; }

   private:
    Parts& parts_;
    std::size_t part_;
  };

  std::barrier<> barrier_;
  std::vector<std::vector<std::int64_t>> contributions_;
  int num_sums_ = 0;
};

}  // namespace itop::testing
