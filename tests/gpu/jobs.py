"""What there is to run on a GPU host, the most valuable first: framework programs, programs over CUDA's libraries and
newest features (programs/), and the end-to-end programs and examples."""

import dataclasses
import importlib.metadata
import importlib.util
import pathlib
import subprocess
import sys

import harness
import programs

HERE = pathlib.Path(__file__).resolve().parent
QUICK = {"OMP_NUM_THREADS": "2", "PYTHONFAULTHANDLER": "1", "TOKENIZERS_PARALLELISM": "false"}
# Reproducible: no algorithm chosen by the clock. JAX takes memory as it needs it, since jobs share the card natively.
TORCH = {**QUICK, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
JAX = {**QUICK, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_FLAGS": "--xla_gpu_autotune_level=0 --xla_gpu_deterministic_ops=true", "TF_CPP_MIN_LOG_LEVEL": "2"}
# name -> (module it needs, script, arguments, environment), the longest first.
FRAMEWORKS = {
    "torch_compile": ("torch", "torch_compile", [], TORCH),
    "jax_cases": ("jax", "jax_cases", [], JAX),
    "torch_transformers": ("transformers", "torch_models", ["gpt2", "bert", "vit"], TORCH),
    "torch_inception_v3": ("torchvision", "torch_models", ["inception_v3"], TORCH),
    "torch_resnet50": ("torchvision", "torch_models", ["resnet50"], TORCH),
    "torch_data": ("torch", "torch_data", [], TORCH),
    "cupy_cases": ("cupy", "cupy_cases", [], QUICK),
    "torch_ops": ("torch", "torch_ops", [], TORCH),
    "torch_cuda": ("torch", "torch_cuda", [], TORCH),
    "triton_cases": ("triton", "triton_cases", [], QUICK),
    "numba_cases": ("numba_cuda", "numba_cases", [], QUICK),
    "torch_allocator_vmm": ("torch", "torch_allocator", [], {**TORCH, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}),
    "torch_allocator_async": ("torch", "torch_allocator", [], {**TORCH, "PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}),
    "jax_defaults": ("jax", "jax_matmul", [], {**QUICK, "TF_CPP_MIN_LOG_LEVEL": "2"}),
    "onnx_cases": ("onnxruntime", "onnx_cases", [], QUICK),
}


@dataclasses.dataclass
class Job:
    name: str
    command: list
    settings: dict
    library_path: list = dataclasses.field(default_factory=list)
    memory_mib: int = 8192
    strict: bool = False  # everything it prints is compared; for the others their cases
    absent: str = ""  # what it needs and the host has not


def installed(module):
    """Of the interpreter that runs the jobs too, which is this one."""
    return importlib.util.find_spec(module) is not None


def library_folders():
    """Where the toolkit's shared libraries are, and those of NVIDIA's Python wheels, for what the toolkit lacks."""
    wheels = [pathlib.Path(place) for place in getattr(importlib.util.find_spec("nvidia"), "submodule_search_locations", None) or []]
    return [*harness.toolkit_libraries(), *sorted(folder for place in wheels for folder in place.glob("*/lib"))]


def unsatisfied(program, library_path):
    """A library that the program needs and the host lacks, or "". libcuda.so.1 is the driver's own affair."""
    environment = {**harness.clean_environment(), "LD_LIBRARY_PATH": ":".join(map(str, library_path))}
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, env=environment)
    absent = [line.split()[0] for line in listed.stdout.splitlines() if "not found" in line and "libcuda.so.1" not in line]
    return f"the host has no {absent[0]}" if absent else ""


def frameworks():
    for name, (module, script, arguments, environment) in FRAMEWORKS.items():
        yield Job(name, [sys.executable, str(HERE / "frameworks" / f"{script}.py"), *arguments], {**programs.DEFAULTS, "env": environment, "timeout": 240},
                  absent="" if installed(module) else f"{module} is not installed")


def library_programs(build):
    folder = build.root / "gpu"
    for path in sorted(folder.iterdir()) if folder.exists() else []:
        libraries = library_folders()
        yield Job(path.name, [str(path)], {**programs.DEFAULTS, "timeout": 120}, libraries, absent=unsatisfied(path, libraries))


def end_to_end(build):
    libraries = harness.toolkit_libraries()
    for name in programs.tests_of([p.name for p in build.programs.iterdir()] if build.programs.exists() else []):
        program, settings = programs.settings_of(name)
        path = build.program(program)
        yield Job(name, [str(path), *settings["args"]], {**settings, "timeout": max(settings["timeout"], 120)}, libraries, strict=True,
                  absent=unsatisfied(path, libraries) if path.exists() else f"{path} was not built")


def versions():
    """Of what the jobs stand on, as far as it is there."""
    found = {"python": sys.version.split()[0]}
    for name in ("torch", "torchvision", "transformers", "jax", "cupy-cuda13x", "triton", "numba-cuda", "onnxruntime", "nvidia-ml-py"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    driver = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True) if harness.gpu_name() else None
    return {**found, "driver": driver.stdout.split("\n")[0]} if driver else found


def all_jobs(build):
    return [*frameworks(), *library_programs(build), *end_to_end(build)]
