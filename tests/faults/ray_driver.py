"""A Ray of one machine with Serve, for as long as standard input is open.

Each line there is a JSON object, perhaps with an application to ``deploy``, as Serve takes one. Each is
answered with a line of JSON: the replicas of the gateway by their state, and what Serve says of it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

NAME = "chatglm-gateway"
DEPLOYMENT = "Gateway"
OBJECT_STORE_BYTES = 100 * 2**20


def main(folder: Path, port: int) -> None:
    # Whatever else is printed goes where the log goes.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    ray.init(
        address="local",
        # Ray starts a process for each before anyone asks.
        num_cpus=1,
        num_gpus=0,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        _temp_dir=str(folder),
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "deploy" in asked:
            config = ServeDeploySchema.model_validate({"applications": [asked["deploy"] | {"name": NAME}]})
            # As `serve deploy` has it done; that needs Ray's dashboard.
            client = _get_global_client()
            assert client is not None
            client.deploy_apps(config)
        print(json.dumps(status()), file=answers, flush=True)
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


def status() -> dict[str, Any]:
    application = serve.status().applications.get(NAME)
    if application is None:
        return {"replicas": {}, "says": ""}
    deployment = application.deployments.get(DEPLOYMENT)
    replicas = deployment.replica_states if deployment is not None else {}
    return {"replicas": replicas, "says": f"{application.status.value}: {application.message}"}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
