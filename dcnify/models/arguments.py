"""Check the arguments of `InternImage` against each other."""

from collections.abc import Sequence

from dcnify.errors import InputError


def check_arguments(
    core_op: str,
    depths: Sequence[int],
    groups: Sequence[int],
    layer_scale: float | None,
    res_post_norm: bool,
    post_norm_block_ids: Sequence[int],
) -> None:
    """Refuse arguments that do not fit together, with what was expected."""
    if core_op not in ("dcnv3", "dcnv4"):
        raise InputError(f"core_op is 'dcnv3' or 'dcnv4', not {core_op!r}")
    if len(depths) != len(groups) or not depths:
        raise InputError(f"depths {tuple(depths)} and groups {tuple(groups)} differ in length")
    if layer_scale is not None and res_post_norm:
        raise InputError("layer_scale and res_post_norm do not go together")
    deep = depths[2] if len(depths) > 2 else 0
    wrong = [number for number in post_norm_block_ids if not 0 <= number < deep]
    if wrong or len(set(post_norm_block_ids)) != len(post_norm_block_ids):
        raise InputError(
            f"post_norm_block_ids {tuple(post_norm_block_ids)} must be different blocks of the "
            f"third level, which has {deep}"
        )
