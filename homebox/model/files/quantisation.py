"""What `quantization_config` of a config.json says about how a checkpoint's numbers are stored.

The one idea: a tensor's type in the file says whether it is quantised, so lists of modules that are
not need no reading; the configuration says what the numbers beside it mean.
Invariant: a `Quantisation` that exists is one whose numbers `stored.py` decodes; every other method
is refused by name.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from homebox.model.files.config_fields import Fields
from homebox.model.files.json_file import show

KEY = "quantization_config"
METHODS = ("fp8", "fbgemm_fp8", "compressed-tensors (float-quantized)", "mxfp4")
_OTHERS = "get the model as it was before, or as GGUF"
_MAX_BLOCK = 1 << 20
_FORMATS = ("float-quantized", "naive-quantized")
# Scales of activations and of a quantised KV cache. Weights alone are taken as 8 bits here; what is
# multiplied with them is not rounded to 8 bits, so these have nothing to scale.
_UNUSED = re.compile(r".+\.(activation|input|output|q|k|v|prob)_scale|.+\.input_scale_ub")


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How the quantised tensors of a checkpoint are stored."""

    method: str  # "fp8" or "mxfp4"
    block: tuple[int, int] | None = None  # rows and columns that share a scale; None: see `stored`
    stated: bool = True  # whether the file says `block`; if not, one scale for all is good too

    def scale_names(self, name: str) -> tuple[str, ...]:
        """Return what the scale of the weight `name` may be called."""
        return (f"{name}_scale_inv", f"{name}_scale") if self.method == "fp8" else ()

    def block_of(self, scale: tuple[int, ...]) -> tuple[int, int] | None:
        """Return the block that counts for a scale of this shape."""
        return None if not self.stated and set(scale) <= {1} else self.block

    def ignores(self, name: str) -> bool:
        """Whether a tensor of this name belongs to arithmetic that does not happen here."""
        return self.method == "fp8" and _UNUSED.fullmatch(name) is not None


def quantisation(raw: Mapping[str, Any], where: str = "config.json") -> Quantisation | None:
    """Return what a decoded `config.json` says of quantised weights; None if it says nothing.

    Raises ModelFormatError that names the field, and for another method those that there are.
    """
    fields = Fields(raw, where).part(KEY)
    other = raw.get("quantization")
    if isinstance(other, dict) and "bits" in other:
        Fields(raw, where).fail("quantization", f"MLX's is not supported; {_OTHERS}")
    if fields is None:
        return None
    method = fields.get("quant_method")
    if method == "fp8":
        return _fp8(fields)
    if method == "fbgemm_fp8":
        return Quantisation("fp8")
    if method == "compressed-tensors":
        return _compressed(fields)
    if method != "mxfp4":
        known = ", ".join(METHODS)
        reason = f"{show(method)} is not supported; supported: {known}; {_OTHERS}"
        fields.fail("quant_method", reason)
    return Quantisation("mxfp4")


def _fp8(fields: Fields) -> Quantisation:
    """Read the fields of DeepSeek-V3's checkpoints, which those of other families took over."""
    fields.choice("activation_scheme", ("dynamic", "static"), default="dynamic")
    fields.choice("scale_fmt", ("float", "ue8m0"), default="float")
    fields.choice("expert_dtype", ("fp8",), default="fp8")
    if "weight_block_size" not in fields.raw:
        return Quantisation("fp8", (128, 128), stated=False)
    return Quantisation("fp8", _block(fields, "weight_block_size"))


def _compressed(fields: Fields) -> Quantisation:
    """Read the fields of the compressed-tensors library, of which groups of layers may differ."""
    fields.choice("format", _FORMATS, default=_FORMATS[0])
    blocks = {_group(group) for group in _groups(fields)}
    if len(blocks) != 1:
        fields.fail("config_groups", "must have one kind of scale for all groups")
    return Quantisation("fp8", blocks.pop())


def _groups(fields: Fields) -> Iterator[Fields]:
    groups = fields.part("config_groups")
    if groups is None or not 0 < len(groups.raw) <= 64:
        fields.fail("config_groups", "must hold 1 to 64 groups")
    for name in groups.raw:
        group = groups.part(name)
        weights = None if group is None else group.part("weights")
        if group is None or weights is None:
            groups.fail(ascii(name)[:60], "must be an object with weights")
        group.choice("format", _FORMATS, default=_FORMATS[0])
        yield weights


def _group(weights: Fields) -> tuple[int, int] | None:
    """Return the block of a group's weights."""
    weights.choice("type", ("float",))
    weights.integer("num_bits", 8, 8)
    if not weights.boolean("symmetric", default=True):
        weights.fail("symmetric", "false is not supported: there is no zero point")
    strategy = weights.choice("strategy", ("tensor", "channel", "block", "group"), default="tensor")
    if strategy == "block":
        return _block(weights, "block_structure")
    if strategy == "group":
        return 1, weights.integer("group_size", 1, _MAX_BLOCK)
    return None


def _block(fields: Fields, name: str) -> tuple[int, int] | None:
    sizes = fields.integers(name, 1, _MAX_BLOCK, 2)
    if sizes is None:
        return None
    if len(sizes) != 2:
        fields.fail(name, f"must be two whole numbers, not {show(list(sizes))}")
    return sizes[0], sizes[1]
