#pragma once

#include "itop/backend.hpp"

namespace itop {

/// The backend of the processor. Runs on ThreadPool::global(); streams are ignored.
class CpuBackend final : public Backend {
 public:
  std::unique_ptr<WordBuffer> allocate(std::int64_t num_words, Contents contents, StreamHandle stream) override;
  void copy_to_host(const Word* source, std::span<Word> target, StreamHandle stream) override;
  void copy_from_host(std::span<const Word> source, Word* target, StreamHandle stream) override;
  void complement(std::span<const LayerComplement> layers, StreamHandle stream) override;
  void combine(BitOperation operation, const Word* a, const Word* b, Word* target, std::int64_t num_words,
               StreamHandle stream) override;
  std::vector<std::int64_t> count(const Word* words, std::span<const std::int64_t> offsets,
                                  StreamHandle stream) override;
  void unpack(const Word* words, std::uint8_t* bytes, std::int64_t numel, StreamHandle stream) override;
  void pack(const std::uint8_t* bytes, Word* words, std::int64_t numel, StreamHandle stream) override;
  std::shared_ptr<SelectionVerdict> select(std::span<const Selection> selections, Reduction& reduction,
                                           StreamHandle stream) override;
  std::vector<LayerCounts> commit(std::span<const LayerCommit> layers, const CommitOptions& options,
                                  std::span<const std::shared_ptr<SelectionVerdict>> verdicts,
                                  StreamHandle stream) override;
  void apply(std::span<const LayerApply> layers, StreamHandle stream) override;
};

}  // namespace itop
