#pragma once

// How a CompressedSet holds its members: stretches of 65536 indices, as offsets or as bits, one behind the other in
// groups.

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <vector>

#include "cpu/kernels.hpp"
#include "itop/compressed_set.hpp"

namespace itop {

inline constexpr std::int64_t kStretch = 65536;
inline constexpr int kCountBits = 17;  // a full stretch has 65536 members
inline constexpr std::uint32_t kCountMask = (1U << kCountBits) - 1;
inline constexpr std::size_t kBitmapWords = 4096;  // of 16 bits; also the longest list of offsets in saved bytes
// The longest in memory: the bits take at most twice its room, and to add to them takes a third of the time.
inline constexpr std::size_t kMostListed = 2048;

using StretchBits = std::array<Word, kStretch / kWordBits>;

inline bool is_bitmap(std::uint32_t count) { return count > kMostListed; }

inline std::size_t num_words(std::uint32_t count) { return is_bitmap(count) ? kBitmapWords : count; }

inline std::uint16_t bit_of(std::uint16_t offset) { return static_cast<std::uint16_t>(1U << (offset % 16)); }

/// Calls `body(offset)` for every member of a stretch in ascending order.
template <class Body>
void for_each_offset(const std::uint16_t* words, std::uint32_t count, Body&& body) {
  if (!is_bitmap(count)) {
    for (std::uint32_t i = 0; i < count; ++i) body(std::int64_t{words[i]});
    return;
  }
  for (std::size_t word = 0; word < kBitmapWords; ++word) {
    for (unsigned left = words[word]; left != 0; left &= left - 1) {
      body(static_cast<std::int64_t>(word) * 16 + std::countr_zero(left));
    }
  }
}

/// Walks over the stretches of a group.
class CompressedSet::Cursor {
 public:
  explicit Cursor(const Group& group)
      : stretch_(group.stretches.data()), end_(stretch_ + group.stretches.size()), words_(group.words.data()) {}

  bool is_valid() const noexcept { return stretch_ != end_; }
  std::int64_t number() const noexcept { return *stretch_ >> kCountBits; }
  std::uint32_t count() const noexcept { return *stretch_ & kCountMask; }
  const std::uint16_t* words() const noexcept { return words_; }
  void advance() noexcept {
    words_ += num_words(count());
    ++stretch_;
  }

 private:
  const std::uint32_t* stretch_;
  const std::uint32_t* end_;
  const std::uint16_t* words_;
};

/// Makes a group, stretch by stretch.
class CompressedSet::Builder {
 public:
  /// Appends a stretch as it is.
  void copy(std::int64_t number, std::uint32_t count, const std::uint16_t* words) {
    begin(number, count);
    words_.insert(words_.end(), words, words + num_words(count));
  }

  /// Appends the stretch of ascending offsets, at least one.
  void add(std::int64_t number, const std::vector<std::uint16_t>& offsets) {
    const auto count = static_cast<std::uint32_t>(offsets.size());
    if (!is_bitmap(count)) return copy(number, count, offsets.data());
    begin(number, count);
    std::uint16_t* const bits = append_bitmap();
    for (const std::uint16_t offset : offsets) bits[offset / 16] |= bit_of(offset);
  }

  /// Appends the union of a stretch and ascending offsets.
  void unite(const Cursor& old, const std::vector<std::uint16_t>& offsets) {
    if (!is_bitmap(old.count())) {
      united_.clear();
      std::set_union(old.words(), old.words() + old.count(), offsets.begin(), offsets.end(),
                     std::back_inserter(united_));
      return add(old.number(), united_);
    }
    std::uint32_t count = old.count();
    std::uint16_t* const bits = append_bitmap();
    std::copy_n(old.words(), kBitmapWords, bits);
    for (const std::uint16_t offset : offsets) {
      std::uint16_t& word = bits[offset / 16];
      count += (word & bit_of(offset)) == 0 ? 1U : 0U;
      word |= bit_of(offset);
    }
    begin(old.number(), count);
  }

  /// Appends a stretch of bits, if it has any.
  void add(std::int64_t number, const StretchBits& bits) {
    const auto count = static_cast<std::uint32_t>(cpu::kernels().count(bits.data(), std::ssize(bits)));
    if (count == 0) return;
    begin(number, count);
    const std::size_t old_size = words_.size();
    words_.resize(old_size + num_words(count) + cpu::kListedSlack);
    std::uint16_t* const end = words_.data() + old_size;
    if (is_bitmap(count)) {
      static_assert(std::endian::native == std::endian::little);
      std::memcpy(end, bits.data(), sizeof(bits));
    } else {
      cpu::kernels().list_offsets(bits.data(), std::ssize(bits), end);
    }
    words_.resize(old_size + num_words(count));
  }

  /// The group, in memory of just its size.
  Group finish() const {
    Group group;
    group.stretches.assign(stretches_.begin(), stretches_.end());
    group.words.assign(words_.begin(), words_.end());
    group.count = count_;
    return group;
  }

 private:
  void begin(std::int64_t number, std::uint32_t count) {
    stretches_.push_back((static_cast<std::uint32_t>(number) << kCountBits) | count);
    count_ += count;
  }
  std::uint16_t* append_bitmap() {
    words_.resize(words_.size() + kBitmapWords, 0);
    return words_.data() + words_.size() - kBitmapWords;
  }

  std::vector<std::uint32_t> stretches_;
  std::vector<std::uint16_t> words_;
  std::vector<std::uint16_t> united_;
  std::int64_t count_ = 0;
};

}  // namespace itop
