#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "itop/sparse_growth.hpp"

namespace itop {

class ThreadPool;

/// A set of positions of a matrix with memory of its own, in row order.
struct Positions {
  std::int64_t num_rows = 0;
  std::int64_t num_columns = 0;
  std::vector<std::int64_t> row_pointers;  ///< [num_rows + 1]
  std::vector<std::int32_t> columns;       ///< ascending inside a row

  PositionList list() const { return {num_rows, num_columns, row_pointers.data(), columns.data()}; }
};

enum class SetOperation : std::uint8_t { kUnion, kIntersection, kDifference };

/// The union, intersection or difference a - b, in one merge of both lists.
/// @throws std::invalid_argument if the shapes differ, or the result has 2^31 positions or more in a row
Positions combine(const PositionList& a, const PositionList& b, SetOperation operation, ThreadPool& pool);

/// The entries whose `is_member` is not 0.
/// @param is_member [all.count()]
Positions filter(const PositionList& all, const std::uint8_t* is_member, ThreadPool& pool);

/// is_member[e] = whether entry e of `all` is in `set`.
/// @param is_member [all.count()], written
/// @throws std::invalid_argument if the shapes differ
void find_members(const PositionList& all, const PositionList& set, std::uint8_t* is_member, ThreadPool& pool);

/// A set over [0, numel) that grows, in the smaller of two forms for every 65536 indices: ascending 16-bit offsets or
/// one bit each (as in Chambi et al., Better bitmap performance with Roaring bitmaps, 2016). A layer explored to 1 %
/// costs two bytes an explored weight, one explored to 50 % a bit a weight, and an empty stretch 32 bytes.
class CompressedSet {
 public:
  /// @throws std::invalid_argument if numel is negative
  explicit CompressedSet(std::int64_t numel);

  std::int64_t numel() const noexcept { return numel_; }
  std::int64_t count() const noexcept { return count_; }
  std::size_t num_bytes() const noexcept;

  /// Adds positions, row * columns + column; returns how many were new.
  /// @throws std::invalid_argument if the matrix has another number of elements
  std::int64_t insert(const PositionList& positions);

  /// Whether every position is in the set.
  /// @throws std::invalid_argument if the matrix has another number of elements
  bool contains_all(const PositionList& positions) const;

  /// All members as positions of a matrix of `num_columns` columns, which divides numel.
  Positions to_positions(std::int64_t num_columns) const;

  /// The set in bytes: of every stretch its count (uint32), then the stretches' contents (uint16), little-endian.
  std::vector<std::uint8_t> to_bytes() const;

  /// @throws std::invalid_argument if the bytes are no set over [0, numel)
  static CompressedSet from_bytes(std::int64_t numel, const std::uint8_t* bytes, std::size_t num_bytes);

 private:
  static constexpr std::int64_t kStretch = 65536;
  static constexpr std::size_t kBitmapWords = 4096;  ///< of 16 bits; also the longest list of offsets

  struct Stretch {
    std::uint32_t count = 0;
    std::vector<std::uint16_t> words;  ///< offsets where count <= kBitmapWords, else bits

    bool is_bitmap() const noexcept { return count > kBitmapWords; }
    bool contains(std::uint16_t offset) const noexcept;
  };

  void merge(Stretch& stretch, const std::vector<std::uint16_t>& offsets, std::vector<std::uint16_t>& scratch);

  std::int64_t numel_;
  std::int64_t count_ = 0;
  std::vector<Stretch> stretches_;
};

}  // namespace itop
