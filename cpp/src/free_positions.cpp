#include "free_positions.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace itop {

void check_num_grown(const PositionList& taken, std::int64_t k) {
  if (k < 0 || k > taken.num_free()) {
    throw std::invalid_argument("k must be between 0 and the " + std::to_string(taken.num_free()) +
                                " free positions, got " + std::to_string(k));
  }
}

void fill_free_bits(const PositionList& taken, std::int64_t first, std::int64_t num_bits, Word* words) {
  std::fill_n(words, words_for(num_bits), ~Word{0});
  if (num_bits % kWordBits != 0) words[num_bits / kWordBits] = (Word{1} << (num_bits % kWordBits)) - 1;
  std::int64_t row = first / taken.num_columns;
  for (; row < taken.num_rows && row * taken.num_columns < first + num_bits; ++row) {
    const std::int64_t row_start = row * taken.num_columns - first;
    const std::int32_t* entry = taken.columns + taken.row_pointers[row];
    const std::int32_t* const end = taken.columns + taken.row_pointers[row + 1];
    if (row_start < 0) entry = std::lower_bound(entry, end, -row_start);
    for (; entry < end && row_start + *entry < num_bits; ++entry) {
      const std::int64_t bit = row_start + *entry;
      words[bit / kWordBits] &= ~(Word{1} << (bit % kWordBits));
    }
  }
}

}  // namespace itop
