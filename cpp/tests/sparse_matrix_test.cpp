#include "itop/sparse_matrix.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "itop/thread_pool.hpp"

namespace itop {
namespace {

class SparsePatternTest : public ::testing::Test {
 protected:
  // . a b .
  // . . . .
  // c . . d
  std::vector<std::int64_t> row_pointers_{0, 2, 2, 4};
  std::vector<std::int32_t> columns_{1, 2, 0, 3};
  ThreadPool pool_{2};
};

TEST_F(SparsePatternTest, BlocksSplitEveryRowAtTheirFirstColumn) {
  std::vector<std::uint32_t> starts(9);
  fill_block_starts(3, 4, row_pointers_.data(), columns_.data(), 2, starts.data(), pool_);
  EXPECT_EQ(starts, (std::vector<std::uint32_t>{0, 2, 2, 1, 2, 3, 2, 2, 4}));
  const SparsePattern pattern{3, 4, 2, starts.data(), columns_.data(), nullptr};
  EXPECT_EQ(pattern.num_blocks(), 2);
  EXPECT_EQ(pattern.num_entries(), 4);
}

TEST_F(SparsePatternTest, ABlockWiderThanTheMatrixIsTheWholeMatrix) {
  std::vector<std::uint32_t> starts(6);
  fill_block_starts(3, 4, row_pointers_.data(), columns_.data(), 100, starts.data(), pool_);
  EXPECT_EQ(starts, (std::vector<std::uint32_t>{0, 2, 2, 2, 2, 4}));
}

TEST_F(SparsePatternTest, ABlockHasAtLeastOneColumn) {
  std::vector<std::uint32_t> starts(6);
  EXPECT_THROW(fill_block_starts(3, 4, row_pointers_.data(), columns_.data(), 0, starts.data(), pool_),
               std::invalid_argument);
}

TEST_F(SparsePatternTest, TheTransposedPatternListsColumnsWithTheirPlacesInRowOrder) {
  std::vector<std::int64_t> column_pointers(5);
  std::vector<std::int32_t> rows(4);
  std::vector<std::uint32_t> permutation(4);
  transpose_pattern(3, 4, row_pointers_.data(), columns_.data(), column_pointers.data(), rows.data(),
                    permutation.data(), pool_);
  EXPECT_EQ(column_pointers, (std::vector<std::int64_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(rows, (std::vector<std::int32_t>{2, 0, 0, 2}));
  EXPECT_EQ(permutation, (std::vector<std::uint32_t>{2, 0, 1, 3}));
}

TEST(TransposePattern, DoesNotDependOnTheNumberOfThreads) {
  constexpr std::int64_t kRows = 97;
  constexpr std::int64_t kColumns = 50;
  std::vector<std::int64_t> pointers{0};
  std::vector<std::int32_t> columns;
  for (std::int64_t row = 0; row < kRows; ++row) {
    for (std::int64_t column = row % 3; column < kColumns; column += 1 + row % 4) {
      columns.push_back(static_cast<std::int32_t>(column));
    }
    pointers.push_back(static_cast<std::int64_t>(columns.size()));
  }
  std::vector<std::vector<std::uint32_t>> permutations;
  for (const int num_threads : {1, 2, 5}) {
    ThreadPool pool(num_threads);
    std::vector<std::int64_t> column_pointers(kColumns + 1);
    std::vector<std::int32_t> rows(columns.size());
    permutations.emplace_back(columns.size());
    transpose_pattern(kRows, kColumns, pointers.data(), columns.data(), column_pointers.data(), rows.data(),
                      permutations.back().data(), pool);
  }
  EXPECT_EQ(permutations[0], permutations[1]);
  EXPECT_EQ(permutations[0], permutations[2]);
}

TEST_F(SparsePatternTest, CheckAcceptsAPatternAndNamesTheRowThatIsWrong) {
  EXPECT_NO_THROW(check_pattern(3, 4, 4, row_pointers_.data(), columns_.data(), pool_));
  const std::vector<std::vector<std::int32_t>> wrong{{2, 1, 0, 3}, {1, 1, 0, 3}, {-1, 2, 0, 3}};
  for (const auto& columns : wrong) {
    try {
      check_pattern(3, 4, 4, row_pointers_.data(), columns.data(), pool_);
      FAIL() << "accepted";
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find("row 0"), std::string::npos) << error.what();
    }
  }
  const std::vector<std::int32_t> too_large{1, 2, 0, 4};
  EXPECT_THROW(check_pattern(3, 4, 4, row_pointers_.data(), too_large.data(), pool_), std::invalid_argument);
}

TEST_F(SparsePatternTest, CheckRefusesRowPointersThatDescendOrEndElsewhere) {
  const std::vector<std::int64_t> descending{0, 3, 2, 4};
  EXPECT_THROW(check_pattern(3, 4, 4, descending.data(), columns_.data(), pool_), std::invalid_argument);
  EXPECT_THROW(check_pattern(3, 4, 3, row_pointers_.data(), columns_.data(), pool_), std::invalid_argument);
}

}  // namespace
}  // namespace itop
