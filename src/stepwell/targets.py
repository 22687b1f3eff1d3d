"""What the compiler knows of a machine: the numbers every cost and tile decision is made from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """
    A machine to compile for. Extents are in elements, sizes in bytes, rates per core and nanosecond.
    """

    name: str
    """The name of `--target`: "native", "x86-64-v3", "x86-64-v4", "aarch64"."""
    triple: str
    cpu: str
    """What clang's `-march` (x86) or `-mcpu` (AArch64) is given."""
    vector_bytes: int
    """Bytes of one vector register."""
    vector_registers: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    flops_per_ns: float
    """Peak f32 flops of one core, a multiply-add counted as two."""
    dram_bytes_per_ns: float
    cache_bytes_per_ns: float
    """Bytes read from L3 by one core."""
    threads: int
    """Default number of threads of a compiled model."""
    fp: str = "default"
    """"default": contraction and our own reassociation; "strict": source order; "fast"."""

    def lanes(self, element_bytes: int) -> int:
        """Elements of `element_bytes` in one vector register."""
        return self.vector_bytes // element_bytes
