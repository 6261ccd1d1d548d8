"""Training over several processes: shards of layers, sums over ranks, agreement between ranks.

Nothing here is needed to call: the engine finds data parallelism, FSDP2 and tensor parallelism in the model by itself.
``itop.distributed.checkpoint`` writes and reads sharded checkpoints.
"""

from itop.distributed.agreement import Ranks
from itop.distributed.reduction import LayerReductions, ShardReduction, Traffic
from itop.distributed.shards import is_sharded, like_parameter, local_part, shard_start

__all__ = [
    "LayerReductions",
    "Ranks",
    "ShardReduction",
    "Traffic",
    "is_sharded",
    "like_parameter",
    "local_part",
    "shard_start",
]
