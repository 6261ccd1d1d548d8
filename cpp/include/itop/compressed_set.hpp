#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "itop/position_set.hpp"

namespace itop {

class ThreadPool;

/// A set over [0, numel) that grows, in the smaller of two forms for every 65536 indices: ascending 16-bit offsets or
/// one bit each (as in Chambi et al., Better bitmap performance with Roaring bitmaps, 2016). A layer explored to 1 %
/// costs two bytes an explored weight, one explored to 50 % a bit a weight, and an empty stretch nothing.
class CompressedSet {
 public:
  /// @throws std::invalid_argument if numel is negative or 2^48 or more
  explicit CompressedSet(std::int64_t numel);
  CompressedSet(CompressedSet&&) = default;
  CompressedSet& operator=(CompressedSet&&) = default;
  CompressedSet(const CompressedSet&) = delete;

  std::int64_t numel() const noexcept { return numel_; }
  std::int64_t count() const noexcept { return count_; }
  std::size_t num_bytes() const noexcept;

  /// Adds positions, row * columns + column; returns how many were new.
  /// @throws std::invalid_argument if the matrix has another number of elements
  std::int64_t insert(const PositionList& positions, ThreadPool& pool);

  /// Whether every position is in the set.
  /// @throws std::invalid_argument if the matrix has another number of elements
  bool contains_all(const PositionList& positions) const;

  /// All members as positions of a matrix of `num_columns` columns, which divides numel.
  Positions to_positions(std::int64_t num_columns) const;

  /// The set in bytes, little-endian: of every stretch its count (uint32), then the stretches' contents (uint16).
  std::vector<std::uint8_t> to_bytes() const;

  /// @throws std::invalid_argument if the bytes are no set over [0, numel)
  static CompressedSet from_bytes(std::int64_t numel, const std::uint8_t* bytes, std::size_t num_bytes);

 private:
  static constexpr std::int64_t kLength = 65536;
  static constexpr std::uint32_t kBitmapWords = 4096;  ///< of 16 bits; also the longest list of offsets

  /// The members among 65536 indices, at least one.
  struct Stretch {
    std::uint32_t key = 0;  ///< its first index / 65536
    std::uint32_t count = 0;
    std::unique_ptr<std::uint16_t[]> words;  ///< offsets where count <= kBitmapWords, else bits

    bool is_bitmap() const noexcept { return count > kBitmapWords; }
    std::uint32_t num_words() const noexcept { return is_bitmap() ? kBitmapWords : count; }
    bool contains(std::uint16_t offset) const noexcept;
    void insert(const std::vector<std::uint16_t>& offsets);
  };

  /// Entries of one stretch in a list of positions.
  struct Touched;
  std::vector<Touched> touched_by(const PositionList& positions) const;
  void make_room_for(const std::vector<Touched>& touched);
  const Stretch* find(std::uint32_t key) const noexcept;

  std::int64_t numel_;
  std::int64_t count_ = 0;
  std::vector<Stretch> stretches_;  ///< those with members, by ascending key
};

}  // namespace itop
