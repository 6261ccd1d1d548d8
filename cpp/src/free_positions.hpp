#pragma once

#include <cstdint>

#include "itop/bitset.hpp"
#include "itop/sparse_growth.hpp"

namespace itop {

/// @throws std::invalid_argument if k is negative or larger than the number of free positions
void check_num_grown(const PositionList& taken, std::int64_t k);

/// The positions in [first, first + num_bits) that are not taken, as bits; the last word is filled up with zeros.
void fill_free_bits(const PositionList& taken, std::int64_t first, std::int64_t num_bits, Word* words);

}  // namespace itop
