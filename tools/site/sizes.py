"""What an implementation saves, and what it takes to save it."""

from schema.records import Size
from tools.site.sources import Source

STRUCTURES = "The surgery that takes structures out: as long as they are only set to zero, they are stored and multiplied like any other."
SPARSE_KERNEL = (
    "A kernel for sparse matrices, such as CSR (`Tensor.to_sparse_csr`), which pays at high sparsity only: in ordinary tensors zeros are "
    "stored and multiplied like any number."
)
SEMI_STRUCTURED = (
    "Sparse tensor cores, on an NVIDIA GPU from the Ampere generation on, through `torch.sparse.to_sparse_semi_structured`. "
    "A CPU stores and multiplies the zeros."
)
SKIPPING = (
    "Code that leaves out what the network decides to skip. Here it is computed and set to zero: the multiply-accumulates say what can be "
    "saved, the time says what the deciding costs."
)
NOTHING = "Nothing special: the tensors themselves are smaller, for any library and any hardware."
LARGE_LAYERS = (
    "Larger layers than those measured: there is less to store and to multiply, but in small layers the extra steps cost more than "
    "that saves."
)
UNTOUCHED = "Nothing was removed in this short run: a penalty leaves open how much goes."


def needs(size: Size, source: Source) -> str:
    """Which kernel, hardware or step turns what was removed into less time and memory."""
    if source.module.startswith("run_time."):
        return SKIPPING
    if size.parameters_after < size.parameters_before:
        return NOTHING if size.latency_ratio < 1 else LARGE_LAYERS
    if size.weight_sparsity == 0:
        return UNTOUCHED
    if size.amount == "2:4":
        return SEMI_STRUCTURED
    return SPARSE_KERNEL if source.declared.get("UNIT") == ("weight",) else STRUCTURES
