"""Files of Stable Diffusion's weights, from which a training can start, and a file of DiAD's authors.

A folder holds:

- the U-Net and the autoencoder, in one file of FILES, with the names of the public files;
- `autoencoder.safetensors`, if there is an autoencoder that was trained further; it then replaces the other one;
- `text.safetensors`, with one tensor: what the text network makes of the empty prompt.

Nothing in a file is executed.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from mddbench.errors import InputError
from mddbench.nn.foreign_names import Rules, renamed
from mddbench.nn.stable_diffusion_names import AUTOENCODER, GUIDANCE, UNET
from mddbench.nn.tensor_files import State, read_tensors, state_of

FILES = ("stable_diffusion.safetensors", "v1-5-pruned-emaonly.safetensors", "v1-5-pruned.safetensors")
"""Names of the file with U-Net and autoencoder. The first one that there is counts."""
AUTOENCODER_FILE, TEXT_FILE = "autoencoder.safetensors", "text.safetensors"
OF_UNET, OF_GUIDANCE, OF_AUTOENCODER = "model.diffusion_model.", "control_model.", "first_stage_model."
"""What the names of each network begin with."""


def demand_files(folder: Path | None) -> None:
    """Check that a folder has the files that are needed. An InputError, one line, is raised if one is missing.

    Args:
        folder: The folder; None if none was given.
    """
    for names in (FILES, (TEXT_FILE,)):
        _existing(folder, names)


def starting_states(folder: Path | None, unet: nn.Module, autoencoder: nn.Module, text: Tensor) -> dict[str, State]:
    """Read the weights that a training starts from.

    An InputError is raised if a file is missing or is of another network. Its message is one line.

    Args:
        folder: The folder of the files; None if none was given.
        unet: The U-Net, which gives names, shapes and types.
        autoencoder: The autoencoder, likewise.
        text: The text constant (tokens, channels), likewise.

    Returns:
        'unet', 'autoencoder' -> the state of that network; 'text' -> '' -> the constant.
    """
    file = _existing(folder, FILES)
    content = read_tensors(file)
    own = _existing(folder, (AUTOENCODER_FILE,)) if _has(folder, AUTOENCODER_FILE) else None
    trained_further = content if own is None else _with_prefix(read_tensors(own))
    return {
        "unet": network_state(unet, content, UNET, OF_UNET, file),
        "autoencoder": network_state(autoencoder, trained_further, AUTOENCODER, OF_AUTOENCODER, own or file),
        "text": {"": _text(_existing(folder, (TEXT_FILE,)), text)},
    }


def authors_states(content: object, where: str, networks: dict[str, nn.Module]) -> dict[str, State]:
    """Read the three networks of a checkpoint by DiAD's authors.

    Args:
        content: Content of the file, perhaps with the state dict inside.
        where: Name of the file, for messages.
        networks: 'unet', 'guidance' and 'autoencoder' -> the network, which gives names, shapes and types.

    Returns:
        The same names -> the state of that network.
    """
    state, file = state_of(content, Path(where)), Path(where)
    rules = {"unet": (UNET, OF_UNET), "guidance": (GUIDANCE, OF_GUIDANCE), "autoencoder": (AUTOENCODER, OF_AUTOENCODER)}
    return {name: network_state(network, state, *rules[name], file) for name, network in networks.items()}


def network_state(network: nn.Module, content: State, rules: Rules, prefix: str, file: Path) -> State:
    """Take the tensors of one network out of a file.

    Args:
        network: The network, which gives names, shapes and types.
        content: All tensors of the file.
        rules: What turns our names into those of the file, without the prefix.
        prefix: What the network's names in the file begin with.
        file: The file, for messages.

    Returns:
        A tensor for each name of the network's state. An InputError is raised if one is missing, or if one is left over.
    """
    own = {name: value for name, value in content.items() if name.startswith(prefix)}
    return renamed(network.state_dict(), own, (*rules, (r"^", prefix)), str(file))


def _has(folder: Path | None, name: str) -> bool:
    return folder is not None and (folder / name).is_file()


def _existing(folder: Path | None, names: tuple[str, ...]) -> Path:
    """The first of the files that there is."""
    for name in names:
        if folder is not None and (folder / name).is_file():
            return folder / name
    found = "no folder was given" if folder is None else f"{folder} has none"
    raise InputError(
        f"diad: its training starts from Stable Diffusion's weights; expected {' or '.join(names)}, but {found}; give a folder "
        "with all files by --weights-dir DIR (docs/methods.md lists them)"
    )


def _with_prefix(content: State) -> State:
    """The tensors of an autoencoder's own file, which may lack the prefix. Those of its losses are left out."""
    plain = {name.removeprefix(OF_AUTOENCODER): value for name, value in content.items()}
    return {f"{OF_AUTOENCODER}{name}": value for name, value in plain.items() if not name.startswith("loss.")}


def _text(file: Path, like: Tensor) -> Tensor:
    """The one tensor of a file, in the shape and type of another."""
    content = read_tensors(file)
    shapes = [tuple(value.squeeze(0).shape) for value in content.values()]
    if shapes != [tuple(like.shape)]:
        raise InputError(
            f"{file}: holds tensors of {shapes[:3]}, expected one of {tuple(like.shape)}: what the text network makes of an "
            "empty prompt"
        )
    return next(iter(content.values())).squeeze(0).to(like)
