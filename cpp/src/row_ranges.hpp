#pragma once

#include <cstdint>
#include <vector>

#include "itop/sparse_growth.hpp"

namespace itop {

/// First rows of ranges of about equal numbers of entries, enough for the threads, with `num_rows` at the end. At least
/// one range.
std::vector<std::int64_t> cut_rows(const PositionList& positions, int num_threads);

/// How many of the entries [first, last) are marked.
std::int64_t count_members(const std::uint8_t* is_member, std::int64_t first, std::int64_t last);

}  // namespace itop
