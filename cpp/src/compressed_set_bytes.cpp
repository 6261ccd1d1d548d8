// The saved form of a set; the header says how it is laid out.

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "compressed_stretches.hpp"

namespace itop {
namespace {

bool is_saved_as_bitmap(std::uint32_t count) { return count > kBitmapWords; }

std::size_t num_saved_words(std::uint32_t count) { return std::min<std::size_t>(count, kBitmapWords); }

[[noreturn]] void refuse(const char* why) {
  throw std::invalid_argument(std::string("the bytes are no set of positions: ") + why);
}

/// Refuses saved contents that are not `count` members below `length`, in their order.
void check_stretch(const std::uint16_t* words, std::uint32_t count, std::int64_t length) {
  std::int64_t last = -1;
  if (is_saved_as_bitmap(count)) {
    std::uint32_t num_bits = 0;
    for (std::size_t word = 0; word < kBitmapWords; ++word) {
      num_bits += static_cast<std::uint32_t>(std::popcount(words[word]));
      if (words[word] != 0) last = static_cast<std::int64_t>(word) * 16 + std::bit_width(words[word]) - 1;
    }
    if (num_bits != count) refuse("a count is wrong");
  } else {
    for (std::uint32_t i = 0; i < count; ++i) {
      if (words[i] <= last) refuse("offsets do not ascend");
      last = words[i];
    }
  }
  if (last >= length) refuse("an index is out of range");
}

}  // namespace

std::vector<std::uint8_t> CompressedSet::to_bytes() const {
  static_assert(std::endian::native == std::endian::little, "bytes are written as they lie in memory");
  std::uint64_t num_stretches = 0;
  std::size_t num_all_words = 0;
  for (const Group& group : groups_) {
    num_stretches += group.stretches.size();
    for (const std::uint32_t stretch : group.stretches) num_all_words += num_saved_words(stretch & kCountMask);
  }
  std::vector<std::uint8_t> bytes((1 + num_stretches) * sizeof(std::uint64_t) + num_all_words * sizeof(std::uint16_t));
  std::uint8_t* header = bytes.data();
  const auto write_header = [&](std::uint64_t value) {
    std::memcpy(header, &value, sizeof(value));
    header += sizeof(value);
  };
  write_header(num_stretches);
  std::uint8_t* contents = bytes.data() + (1 + num_stretches) * sizeof(std::uint64_t);
  std::vector<std::uint16_t> listed;
  for (std::size_t number = 0; number < groups_.size(); ++number) {
    const std::uint64_t first = number * static_cast<std::uint64_t>(group_stretches_) << kCountBits;
    for (Cursor stretch(groups_[number]); stretch.is_valid(); stretch.advance()) {
      write_header(first + (static_cast<std::uint64_t>(stretch.number()) << kCountBits) + stretch.count());
      const std::uint16_t* words = stretch.words();
      if (is_bitmap(stretch.count()) && !is_saved_as_bitmap(stretch.count())) {
        listed.clear();
        for_each_offset(words, stretch.count(),
                        [&](std::int64_t offset) { listed.push_back(static_cast<std::uint16_t>(offset)); });
        words = listed.data();
      }
      const std::size_t size = num_saved_words(stretch.count()) * sizeof(std::uint16_t);
      std::memcpy(contents, words, size);
      contents += size;
    }
  }
  return bytes;
}

CompressedSet CompressedSet::from_bytes(std::int64_t numel, const std::uint8_t* bytes, std::size_t num_bytes) {
  CompressedSet set(numel);
  std::uint64_t num_stretches = 0;
  if (num_bytes < sizeof(num_stretches)) refuse("they are too few");
  std::memcpy(&num_stretches, bytes, sizeof(num_stretches));
  if (num_stretches > num_bytes / sizeof(std::uint64_t) - 1) refuse("they are too few");
  const auto header = [&](std::uint64_t i) {
    std::uint64_t value = 0;
    std::memcpy(&value, bytes + (1 + i) * sizeof(value), sizeof(value));
    return value;
  };
  std::size_t at = (1 + num_stretches) * sizeof(std::uint64_t);
  std::vector<std::uint16_t> words;
  std::uint64_t next = 0;
  for (std::size_t number = 0; number < set.groups_.size() && next < num_stretches; ++number) {
    Builder builder;
    std::int64_t last_stretch = -1;
    const std::int64_t first_stretch = static_cast<std::int64_t>(number) * set.group_stretches_;
    for (; next < num_stretches; ++next) {
      const auto stretch = static_cast<std::int64_t>(header(next) >> kCountBits);
      const auto count = static_cast<std::uint32_t>(header(next) & kCountMask);
      if (stretch >= first_stretch + set.group_stretches_) break;
      const std::int64_t length = std::min(kStretch, numel - stretch * kStretch);
      if (stretch < first_stretch || stretch <= last_stretch || length <= 0) refuse("stretches do not ascend in range");
      if (count == 0 || count > length) refuse("a count is wrong");
      words.resize(num_saved_words(count));
      const std::size_t size = words.size() * sizeof(std::uint16_t);
      if (num_bytes - at < size) refuse("they are too few");
      std::memcpy(words.data(), bytes + at, size);
      at += size;
      check_stretch(words.data(), count, length);
      if (is_saved_as_bitmap(count)) {
        builder.copy(stretch - first_stretch, count, words.data());
      } else {
        builder.add(stretch - first_stretch, words);
      }
      last_stretch = stretch;
    }
    set.groups_[number] = builder.finish();
    set.count_ += set.groups_[number].count;
  }
  if (next != num_stretches) refuse("stretches do not ascend in range");
  if (at != num_bytes) refuse("they are too many");
  return set;
}

}  // namespace itop
