"""Explain on a Ray cluster of two nodes on this machine, one of which dies on the way.

python two_nodes.py RUN IMAGES OUT SHARD BATCH
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from ray.cluster_utils import Cluster

from apercu.deploy.batch import BatchRequest, BatchSettings, ExplainerRef, Workers, run_batch
from apercu.deploy.batch.ray_cluster import RayCluster

STORE = 200 << 20


def main() -> int:
    run, images, out, shard, batch = sys.argv[1:]
    settings = BatchSettings(shard=int(shard), batch=int(batch))
    request = BatchRequest(ExplainerRef(Path(run)), images, Path(out), settings, Workers(1, 1))
    size = {"num_cpus": 1, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    doomed = cluster.add_node(**size)
    killer = threading.Thread(target=kill, args=(cluster, doomed, request.out), daemon=True)
    killer.start()
    progress: list[int] = []
    try:
        summary = run_batch(
            request, lambda count, total: progress.append(count), RayCluster(cluster.address)
        )
    finally:
        cluster.shutdown()
    counts = (summary.explained, progress[-1], progress == sorted(progress))
    sys.stdout.write(f"finished {counts}\n")
    return 0


def kill(cluster: Cluster, doomed: object, out: Path) -> None:
    """Remove a node as soon as both have begun a shard."""
    while len({part.parent for part in out.glob("_work/*/*.arrow")}) < 2:
        time.sleep(0.01)
    begun = sorted({part.parent.name for part in out.glob("_work/*/*.arrow")})
    sys.stdout.write(f"killed while {len(begun)} shards were begun\n")
    cluster.remove_node(doomed, allow_graceful=False)


if __name__ == "__main__":
    raise SystemExit(main())
