#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "itop/position_set.hpp"

namespace itop {

class ThreadPool;

/// A set over [0, numel) that grows, in the smaller of two forms for every stretch of 65536 indices: ascending 16-bit
/// offsets or one bit each (as in Chambi et al., Better bitmap performance with Roaring bitmaps, 2016). A layer
/// explored to 1 % costs two bytes an explored weight, one explored to 50 % a bit a weight, a stretch with a single
/// member six bytes, an empty one nothing.
///
/// The stretches of a group, up to 2^26 indices, lie one behind the other in memory of their own: a small allocation
/// for every stretch would cost more than what it holds.
class CompressedSet {
 public:
  /// @throws std::invalid_argument if numel is negative
  explicit CompressedSet(std::int64_t numel);

  std::int64_t numel() const noexcept { return numel_; }
  std::int64_t count() const noexcept { return count_; }
  std::size_t num_bytes() const noexcept;

  /// Adds positions, row * columns + column, in time of the set and the positions; returns how many were new.
  /// @throws std::invalid_argument if the matrix has another number of elements
  std::int64_t insert(const PositionList& positions, ThreadPool& pool);

  /// Whether every position is in the set.
  /// @throws std::invalid_argument if the matrix has another number of elements
  bool contains_all(const PositionList& positions) const;

  /// All members as positions of a matrix of `num_columns` columns, which divides numel.
  Positions to_positions(std::int64_t num_columns, ThreadPool& pool) const;

  /// The set in bytes, little-endian: the number of stretches that are not empty (uint64), of each its number and count
  /// (uint64, number * 2^17 + count), then their contents (uint16).
  std::vector<std::uint8_t> to_bytes() const;

  /// @throws std::invalid_argument if the bytes are no set over [0, numel)
  static CompressedSet from_bytes(std::int64_t numel, const std::uint8_t* bytes, std::size_t num_bytes);

 private:
  struct Group {
    std::vector<std::uint32_t> stretches;  ///< those not empty: number in the group * 2^17 + count, ascending
    std::vector<std::uint16_t> words;      ///< their contents
    std::int64_t count = 0;
  };
  class Cursor;
  class Builder;

  /// Adds the positions that lie in a group, which begins at index `first`.
  void insert_into(Group& group, std::int64_t first, const PositionList& positions) const;
  void merge_few(const Group& group, std::int64_t first, const PositionList& positions, Builder& builder) const;
  void merge_many(const Group& group, std::int64_t first, const PositionList& positions, Builder& builder) const;
  static void set_bits(Group& group, std::int64_t first, const PositionList& positions);
  bool contains(const Group& group, std::int64_t first, const PositionList& positions) const;

  std::int64_t numel_;
  std::int64_t group_stretches_ = 1;
  std::int64_t count_ = 0;
  std::vector<Group> groups_;
};

}  // namespace itop
