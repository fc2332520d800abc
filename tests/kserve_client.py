"""What KServe's Python client is told, as JSON: run in an environment of its own, which has ``kserve`` and not specml.

``python -P tests/kserve_client.py HTTP_PORT GRPC_PORT``, of a server of the model "census" (tests/bundles.py).
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

VALUES = {
    "age": ("FP64", np.array([[25.0], [61.0]])),
    "hours": ("FP32", np.array([[40.0], [np.nan]], dtype=np.float32)),
    "member": ("BOOL", np.array([[False], [True]])),
    "workclass": ("BYTES", np.array([["Private"], ["Ünknown"]], dtype=object)),
}


def request(*, binary: bool) -> InferRequest:
    inputs = []
    for name, (kind, values) in VALUES.items():
        if name == "hours" and not binary:  # JSON has no NaN: the column is left out
            continue
        tensor = InferInput(name=name, shape=list(values.shape), datatype=kind)
        tensor.set_data_from_numpy(values, binary_data=binary)
        inputs.append(tensor)
    outputs = {"binary_data_output": True} if binary else {}
    return InferRequest(model_name="census", infer_inputs=inputs, request_id="seven", parameters=outputs)


def told(answer: Any) -> dict[str, Any]:
    by_name = {one.name: one for one in answer.outputs}
    return {
        "id": answer.id,
        "model": answer.model_name,
        "version": answer.model_version,
        "probabilities": by_name["probabilities"].as_numpy()[:, 1].tolist(),
        "labels": [one.decode() if isinstance(one, bytes) else one for one in by_name["label"].as_numpy()],
    }


async def main(http: int, grpc: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    url = f"http://127.0.0.1:{http}"
    rest = InferenceRESTClient(RESTConfig(protocol="v2"))
    found["rest"] = [
        await rest.is_server_live(url),
        await rest.is_server_ready(url),
        await rest.is_model_ready(url, "census"),
        await rest.is_model_ready(url, "other"),
    ]
    found["rest json"] = told(await rest.infer(url, request(binary=False), model_name="census"))
    found["rest binary"] = told(await rest.infer(url, request(binary=True), model_name="census"))
    try:
        await rest.infer(url, request(binary=False), model_name="other")
    except Exception as error:
        found["rest error"] = f"{type(error).__name__}: {error}"
    await rest.close()
    client = InferenceGRPCClient(url=f"127.0.0.1:{grpc}")
    found["grpc"] = [
        await client.is_server_live(),
        await client.is_server_ready(),
        await client.is_model_ready("census"),
    ]
    found["grpc raw"] = told(await client.infer(request(binary=True)))
    found["grpc typed"] = told(await client.infer(request(binary=False)))
    await client.close()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))))
