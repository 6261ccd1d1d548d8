#pragma once

#include <span>

#include "itop/reduction.hpp"
#include "itop/selection.hpp"
#include "itop/thread_pool.hpp"

namespace itop::cpu {

/// Backend::select on the CPU.
void select(std::span<const Selection> selections, Reduction& reduction, ThreadPool& threads);

}  // namespace itop::cpu
