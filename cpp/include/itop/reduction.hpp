#pragma once

#include <cstdint>
#include <span>

namespace itop {

/// Sums counts over everybody who holds a part of a tensor. Selection calls it between its rounds, on every part in the
/// same order and with the same number of counts, and takes the same branch everywhere because it sees the same sums.
class Reduction {
 public:
  virtual ~Reduction() = default;

  /// Replaces `counts` by their sums over all parts.
  virtual void sum(std::span<std::int64_t> counts) = 0;

  /// True where this process holds all parts; rounds that only serve the merging are then left out.
  virtual bool is_local() const noexcept = 0;
};

/// One process holds everything: nothing to merge.
class LocalReduction final : public Reduction {
 public:
  void sum(std::span<std::int64_t>) override {}
  bool is_local() const noexcept override { return true; }
};

}  // namespace itop
