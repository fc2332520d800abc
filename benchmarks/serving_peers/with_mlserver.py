"""MLServer with a runtime of its documented form: ``python with_mlserver.py FOLDER PORT``.

No processes of inference beside the server's (``parallel_workers: 0``, as its documentation advises for light models),
no adaptive batching (a default; with it single rows wait), no access log.
"""

from __future__ import annotations

import asyncio
import os
import sys

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse
from model import Model


class Runtime(MLModel):
    """One tensor in, one out."""

    async def load(self) -> bool:
        """Open the graph."""
        self._run = Model(os.environ["BENCH_FOLDER"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        told = self._run(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output("predictions", told)
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[output])


async def serve(port: int) -> None:
    """Answer until the process is ended."""
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=port + 1,
        metrics_port=port + 2,
        parallel_workers=0,
        debug=False,
        logging_settings={"version": 1, "disable_existing_loggers": True},
    )
    model = ModelSettings(name="bench", implementation=Runtime, parameters=ModelParameters(version="1"))
    await MLServer(settings).start([model])


if __name__ == "__main__":
    os.environ["BENCH_FOLDER"] = sys.argv[1]
    asyncio.run(serve(int(sys.argv[2])))
