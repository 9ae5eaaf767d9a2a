"""Which tensor of a file is which of a timm encoder: files name them as timm's plain model does, or with something before.

timm's wrapper that gives features (`features_only`) names a model's tensors anew: `model.NAME` or `body.NAME`, or `stages_0.`
for `stages.0.`.
"""

from __future__ import annotations

from mddbench.errors import InputError
from mddbench.nn.tensor_files import State, described


def fitted(wanted: State, state: State, where: str) -> State:
    """The tensors of a file under the names and types that an encoder wants them by.

    wanted: the encoder's own; state: the file's, named as the encoder's, as timm's plain model, or so with one prefix before
    all (`module.backbone.`); counters that no inference reads may be missing. where: what messages begin with.
    Raises InputError, with what is in the file, for another model's weights.
    """
    needed = [name for name in wanted if not name.endswith("num_batches_tracked")]
    prefixes = _prefixes(needed, state)
    found = {prefix: _found(wanted, state, prefix) for prefix in prefixes}
    complete = [prefix for prefix in prefixes if all(name in found[prefix] for name in needed)]
    different = list({tuple(found[prefix].values()): prefix for prefix in reversed(complete)}.values())[::-1]
    if len(different) > 1 and different[0]:
        raise InputError(
            f"{where} hold the model {len(different)} times, under {' and '.join(map(repr, different))}; keep one of them"
        )
    best = complete[0] if complete else max(prefixes, key=lambda prefix: len(found[prefix]))
    missing = [name for name in needed if name not in found[best]]
    unfit = [name for name in found[best] if state[found[best][name]].shape != wanted[name].shape]
    if missing or unfit:
        what = f"lack '{best}{_plain(missing[0])}'" if missing else f"hold '{found[best][unfit[0]]}' in another shape"
        raise InputError(f"{where} {what}; they are another model's ({described(state)})")
    return {
        name: state[found[best][name]].to(value) if name in found[best] else value for name, value in wanted.items()
    }


def _prefixes(needed: list[str], state: State) -> list[str]:
    """What may stand before all names of a file, the shortest first: '' always."""
    anchors = {name for wanted in (needed[0], needed[-1]) for name in _names(wanted)} if needed else set()
    before = {
        name.removesuffix(anchor)
        for name in state
        for anchor in anchors
        if name == anchor or name.endswith(f".{anchor}")
    }
    return sorted({"", *before}, key=lambda prefix: (len(prefix), prefix))


def _found(wanted: State, state: State, prefix: str) -> dict[str, str]:
    """Wanted name -> the file's, of those that it has behind the prefix."""
    pairs = ((name, next((each for each in _names(name) if prefix + each in state), None)) for name in wanted)
    return {name: prefix + each for name, each in pairs if each is not None}


def _names(name: str) -> list[str]:
    """The names that a tensor of timm's wrapper may have in a file, its own last."""
    first, _, rest = name.partition(".")
    unfolded = [f"{first[:at]}.{first[at + 1 :]}.{rest}" for at, letter in enumerate(first) if letter == "_"]
    return [*([rest] if first in ("model", "body") else []), *unfolded, name]


def _plain(name: str) -> str:
    """As timm's plain model most likely names it."""
    first, _, rest = name.partition(".")
    return rest if first in ("model", "body") else name
