"""Which environment variables count when a process imports ``mlc_llm``, rather than afterwards.

Read by the holder, which looks for a warm parent with the right ones, and by the warm parent, which
forks nothing for others. In doubt a variable is here: one warm parent too many costs memory, a
server whose imports read another value costs the truth.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: Their beginnings: those of mlc_llm, tvm and Python; of the dynamic loader and the C library; of
#: libraries that make their thread pools when they are loaded; of the GPUs' runtimes, the visible
#: devices included; of torch and the packages of Hugging Face; of the locale; and where a user's
#: own packages and settings are.
IMPORT_TIME = (
    "MLC_", "TVM_", "DMLC_", "PYTHON", "VIRTUAL_ENV", "CONDA_",
    "LD_", "GLIBC_", "MALLOC_", "LANG", "LC_", "HOME", "XDG_",
    "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "GOTO_", "BLIS_", "MKL_", "NPY_", "NUMPY_", "NUMEXPR_",
    "RAYON_",
    "CUDA_", "CUDNN_", "CUBLAS_", "NVIDIA_", "NCCL_", "HIP_", "ROCR_", "ROCM_", "HSA_", "AMD_",
    "GPU_", "VK_", "OCL_", "ZE_", "SYCL_", "ONEAPI_",
    "TORCH", "PYTORCH_", "ATEN_", "TRITON_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TOKENIZERS_",
    "SAFETENSORS_",
)  # fmt: skip


def import_time(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of an environment that count when modules are imported."""
    return {
        name: value for name, value in sorted(environment.items()) if name.startswith(IMPORT_TIME)
    }


def difference(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the names of the variables that count, and differ."""
    first, second = import_time(one), import_time(other)
    return [name for name in sorted({*first, *second}) if first.get(name) != second.get(name)]
