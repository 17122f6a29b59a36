"""An arm: one graph in one session, called as a server would call it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.names import is_telemetry

from ..errors import RUNTIME_REFUSES
from ..inference.controls import control_names, required_controls
from ..inference.sessions import providers
from .paired_latency import Request

__all__ = ["CPU", "CUDA", "Arm", "Feeds", "check_provider"]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

Feeds = Mapping[str, NDArray[Any]]

# Where two sessions take turns, the threads of the idle one would keep the cores of the other busy.
_STOP_SPINNING = "session.force_spinning_stop"


def check_provider(provider: str) -> None:
    """Raises ATP050 without onnxruntime, ATP052 where it lacks the provider."""
    if provider not in providers():
        raise RUNTIME_REFUSES(
            f"this onnxruntime has no {provider}; it has {', '.join(providers())}",
            "pip install 'atpatch-onnx[gpu]' for CUDA, in an environment without the CPU build",
        )


class Arm:
    """A session on a model file with a fixed number of threads.

    Args:
        threads: within an operator; operators run one after another.
        provider: "CPUExecutionProvider", "CUDAExecutionProvider" or another; what it cannot run goes to the CPU.

    Attributes:
        inputs: ONNX type by name of what has to be fed, the patch's controls not among them.
        controls: names of the controls that the graph has.
        outputs: names, telemetry not among them.

    Raises:
        AtpatchError: ATP050 without onnxruntime, ATP052 where it refuses the model or the provider.
    """

    def __init__(self, model: Path, threads: int, provider: str = CPU) -> None:
        check_provider(provider)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry(_STOP_SPINNING, "1")
        try:
            self._session = onnxruntime.InferenceSession(
                str(model), options, providers=list(dict.fromkeys([provider, CPU]))
            )
        except Exception as error:  # onnxruntime's exception classes share no base of their own
            raise _refusal(error) from error
        if provider not in self._session.get_providers():
            # onnxruntime falls back to the CPU without a word where CUDA's libraries do not load.
            raise RUNTIME_REFUSES(
                f"{provider} did not start", "check the CUDA and cuDNN versions that onnxruntime-gpu was built for"
            )
        self._provider = provider
        self.controls = control_names(self._session)
        self._required = required_controls(self._session)
        self.inputs: dict[str, str] = {
            value.name: value.type for value in self._session.get_inputs() if value.name not in self.controls
        }
        names = [output.name for output in self._session.get_outputs()]
        self.outputs = [name for name in names if not is_telemetry(name)]

    def run(self, feeds: Feeds, outputs: list[str] | None = None) -> dict[str, NDArray[Any]]:
        """Outputs by name; `feeds` may hold more than the graph takes.

        Raises:
            AtpatchError: ATP052 where onnxruntime fails.
        """
        names = self.outputs if outputs is None else outputs
        try:
            return dict(zip(names, self._session.run(names, self._taken(feeds)), strict=True))
        except Exception as error:
            raise _refusal(error) from error

    def request(self, feeds: Feeds, outputs: list[str] | None = None) -> Request:
        """The run, to be timed: from arrays to arrays on the CPU, from device memory to device memory on CUDA.

        Raises:
            AtpatchError: ATP052 where a first run fails.
        """
        names = self.outputs if outputs is None else outputs
        self.run(feeds, names)
        taken, live = self._taken(feeds), self._session
        if self._provider != CUDA:
            return lambda: live.run(names, taken)
        return self.bound(taken, names, "cuda")

    def bound(self, feeds: Feeds, outputs: list[str], device: str) -> Request:
        """The run with inputs and outputs in the memory of a device, "cuda" or "cpu"; it returns the binding."""
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        for name, array in feeds.items():
            # A control is read by an If, on the CPU. Not `bind_cpu_input`, which does not know initializers that may be
            # overridden.
            home = "cpu" if name in self.controls else device
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array, home, 0))
        for name in outputs:
            binding.bind_output(name, device)
        binding.synchronize_inputs()

        def run() -> object:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()  # the kernels are only queued before
            return binding

        return run

    def _taken(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        # Contiguous, or every run would copy.
        given = {**self._required, **feeds}
        return {
            name: np.asarray(array, order="C")
            for name, array in given.items()
            if name in self.inputs or name in self.controls
        }


def _refusal(error: Exception) -> Exception:
    return RUNTIME_REFUSES(" ".join(str(error).split())[:400], "check the shapes, types and values of what is fed")
