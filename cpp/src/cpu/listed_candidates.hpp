#pragma once

#include <cstdint>

#include "cpu/selection_problem.hpp"

namespace itop::cpu {

/// Chooses the candidate at a position of a chunk's segment.
inline void set_chosen(const Problem& problem, const Chunk& chunk, std::int64_t position) {
  problem.selection->segments[chunk.segment].chosen[position / kWordBits] |= Word{1} << (position % kWordBits);
}

/// Finds the threshold, the wanted-th smallest of a problem's listed keys, all of them here and in [lowest, highest],
/// and takes what is below it as `take_below` does.
void take_wanted(Problem& problem, std::int64_t lowest, std::int64_t highest, std::int64_t& num_below,
                 std::int64_t& num_equal);

/// Chooses a problem's listed candidates below its threshold and keeps its equals listed; counts both.
void take_below(Problem& problem, std::int64_t& num_below, std::int64_t& num_equal);

}  // namespace itop::cpu
