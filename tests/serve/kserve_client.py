"""KServe's own client, unchanged, in a process of its own: its messages and tritonclient's cannot be loaded into one.

`python -m tests.serve.kserve_client HTTP_PORT GRPC_PORT IMAGES.npy` prints one JSON object: what the client makes of
the server.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def request(images: np.ndarray, raw: bool, model: str = "model") -> Any:
    tensor = InferInput("pixel_values", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images, binary_data=raw)
    return InferRequest(model, [tensor], request_id="k1")


def told(answer: Any) -> dict[str, Any]:
    output = answer.outputs[0]
    return {
        "id": answer.id,
        "model": answer.model_name,
        "name": output.name,
        "scores": output.as_numpy().astype(np.float32).tolist(),
    }


async def http(url: str, images: np.ndarray) -> dict[str, Any]:
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    found = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model ready": await client.is_model_ready(url, "model"),
        "other ready": await client.is_model_ready(url, "other"),
        "raw": told(await client.infer(url, request(images, True), model_name="model")),
        "json": told(await client.infer(url, request(images, False), model_name="model")),
        "wrong shape": await refusal(client.infer(url, request(images[:, :, :4], True), model_name="model")),
        "wrong model": await refusal(client.infer(url, request(images, True, "other"), model_name="other")),
    }
    await client.close()
    return found


async def grpc(url: str, images: np.ndarray) -> dict[str, Any]:
    async with InferenceGRPCClient(url, retries=0) as client:
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready("model"),
            "raw": told(await client.infer(request(images, True))),
            "json": told(await client.infer(request(images, False))),
            "wrong shape": await refusal(client.infer(request(images[:, :, :4], True))),
            "wrong model": await refusal(client.infer(request(images, True, "other"))),
        }


async def refusal(call: Any) -> str:
    """What the client raises; empty where it raises nothing."""
    try:
        await call
    except Exception as error:  # whichever way the client has of saying no
        return str(error)
    return ""


def main() -> None:
    http_port, grpc_port, file = sys.argv[1:]
    images = np.load(file)

    async def both() -> dict[str, Any]:
        return {
            "http": await http(f"http://127.0.0.1:{http_port}", images),
            "grpc": await grpc(f"127.0.0.1:{grpc_port}", images),
        }

    sys.stdout.write(json.dumps(asyncio.run(both())) + "\n")


if __name__ == "__main__":
    main()
