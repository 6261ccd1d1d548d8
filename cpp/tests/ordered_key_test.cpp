#include "itop/ordered_key.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "support/values.hpp"

namespace itop {
namespace {

constexpr ScoreTransform kTransforms[] = {ScoreTransform::kMagnitude, ScoreTransform::kSigned};
constexpr SelectionOrder kOrders[] = {SelectionOrder::kSmallest, SelectionOrder::kLargest};

/// The score a key stands for: smaller is better, whatever the transform and order.
double score_of(double value, ScoreTransform transform, SelectionOrder order) {
  const double score = transform == ScoreTransform::kMagnitude ? std::fabs(value) : value;
  return order == SelectionOrder::kSmallest ? score : -score;
}

/// Sorts by score, then wants keys equal where scores are and increasing where scores are.
template <class Key>
void expect_monotone(std::vector<std::pair<double, Key>> scores_and_keys) {
  std::sort(scores_and_keys.begin(), scores_and_keys.end());
  for (std::size_t i = 1; i < scores_and_keys.size(); ++i) {
    const auto& [low, low_key] = scores_and_keys[i - 1];
    const auto& [high, high_key] = scores_and_keys[i];
    if (low == high) {
      ASSERT_EQ(low_key, high_key) << "at score " << low;
    } else {
      ASSERT_LT(low_key, high_key) << "between scores " << low << " and " << high;
    }
  }
}

TEST(OrderedKey, OrdersEveryFiniteFloat16) {
  for (const auto transform : kTransforms) {
    for (const auto order : kOrders) {
      std::vector<std::pair<double, std::int32_t>> pairs;
      for (int bits = 0; bits < 65536; ++bits) {
        const auto half = static_cast<std::uint16_t>(bits);
        const double value = testing::decode_float16(half);
        if (!std::isfinite(value)) continue;
        pairs.emplace_back(score_of(value, transform, order),
                           OrderedKey32::from_bits(float32_bits_of_float16(half), transform, order));
      }
      EXPECT_EQ(pairs.size(), 65536U - 2 * 1024U);
      expect_monotone(std::move(pairs));
    }
  }
}

TEST(OrderedKey, OrdersEveryFiniteBFloat16) {
  for (const auto transform : kTransforms) {
    for (const auto order : kOrders) {
      std::vector<std::pair<double, std::int32_t>> pairs;
      for (int bits = 0; bits < 65536; ++bits) {
        const auto value16 = static_cast<std::uint16_t>(bits);
        const double value = testing::decode_bfloat16(value16);
        if (!std::isfinite(value)) continue;
        pairs.emplace_back(score_of(value, transform, order),
                           OrderedKey32::from_bits(float32_bits_of_bfloat16(value16), transform, order));
      }
      EXPECT_EQ(pairs.size(), 65536U - 2 * 128U);
      expect_monotone(std::move(pairs));
    }
  }
}

TEST(OrderedKey, OrdersTheSpecialValuesOfFloat32AndFloat64) {
  using Limits32 = std::numeric_limits<float>;
  using Limits64 = std::numeric_limits<double>;
  for (const auto transform : kTransforms) {
    for (const auto order : kOrders) {
      std::vector<std::pair<double, std::int32_t>> narrow;
      for (const float value :
           {0.0F, Limits32::denorm_min(), Limits32::min(), 1.0F, std::nextafter(1.0F, 2.0F), 3.5F, Limits32::max()}) {
        for (const float signed_value : {value, -value}) {
          narrow.emplace_back(score_of(signed_value, transform, order),
                              OrderedKey32::from_bits(std::bit_cast<std::uint32_t>(signed_value), transform, order));
        }
      }
      expect_monotone(std::move(narrow));
      std::vector<std::pair<double, std::int64_t>> wide;
      for (const double value :
           {0.0, Limits64::denorm_min(), Limits64::min(), 1.0, std::nextafter(1.0, 2.0), 3.5, Limits64::max()}) {
        for (const double signed_value : {value, -value}) {
          wide.emplace_back(score_of(signed_value, transform, order),
                            OrderedKey64::from_bits(std::bit_cast<std::uint64_t>(signed_value), transform, order));
        }
      }
      expect_monotone(std::move(wide));
    }
  }
}

TEST(OrderedKey, TellsFiniteFromInfinityAndNan) {
  const auto finite32 = [](float value) { return OrderedKey32::is_finite(std::bit_cast<std::uint32_t>(value)); };
  const auto finite64 = [](double value) { return OrderedKey64::is_finite(std::bit_cast<std::uint64_t>(value)); };
  for (const float value : {0.0F, -1.0F, std::numeric_limits<float>::max(), std::numeric_limits<float>::denorm_min()}) {
    EXPECT_TRUE(finite32(value));
    EXPECT_TRUE(finite64(value));
  }
  EXPECT_TRUE(finite64(-std::numeric_limits<double>::max()));
  for (const float value : {INFINITY, -INFINITY, NAN, -NAN}) {
    EXPECT_FALSE(finite32(value));
    EXPECT_FALSE(finite64(static_cast<double>(value)));
  }
}

TEST(Widening, KeepsTheValueOfEveryFloat16AndBFloat16) {
  for (int bits = 0; bits < 65536; ++bits) {
    const auto narrow = static_cast<std::uint16_t>(bits);
    const float half = std::bit_cast<float>(float32_bits_of_float16(narrow));
    const double expected = testing::decode_float16(narrow);
    ASSERT_TRUE(std::isnan(expected) ? std::isnan(half) : static_cast<double>(half) == expected) << std::hex << bits;
    ASSERT_EQ(std::signbit(half), (narrow & 0x8000) != 0) << std::hex << bits;
    const float brain = std::bit_cast<float>(float32_bits_of_bfloat16(narrow));
    ASSERT_EQ(std::bit_cast<std::uint32_t>(brain), std::uint32_t{narrow} << 16);
  }
}

TEST(Widening, KeepsTheValueOfAFloat32) {
  for (const float value : {0.0F, -0.0F, 1.5F, -3.0e38F, std::numeric_limits<float>::denorm_min()}) {
    EXPECT_EQ(float64_bits_of_float32(std::bit_cast<std::uint32_t>(value)),
              std::bit_cast<std::uint64_t>(static_cast<double>(value)));
  }
}

TEST(EncodedFloat16, ReadsBackAsItself) {
  for (int bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const double value = testing::decode_float16(half);
    if (!std::isnan(value)) {
      ASSERT_EQ(testing::encode_float16(value), half);
    }
  }
}

}  // namespace
}  // namespace itop
