"""Tensor names of Stable Diffusion, ControlNet and DiAD in public files. The rules turn our names into theirs.

Code read: CompVis/latent-diffusion (MIT), lllyasviel/ControlNet (Apache-2.0) and lewandofskee/DiAD at d281300 (no licence),
through notes on them; none of it is used.
"""

from __future__ import annotations

from mddbench.nn.foreign_names import Rules

UNET: Rules = (
    (r"^time\.", "time_embed."),
    (r"^inputs\.", "input_blocks."),
    (r"^middle\.", "middle_block."),
    (r"^outputs\.", "output_blocks."),
    (r"^head\.", "out."),
    (r"\.first\.", ".in_layers."),
    (r"\.second\.2\.", ".out_layers.3."),
    (r"\.second\.", ".out_layers."),
    (r"\.shift\.", ".emb_layers.1."),
    (r"\.shortcut\.", ".skip_connection."),
    (r"\.project_in\.", ".proj_in."),
    (r"\.project_out\.", ".proj_out."),
    (r"\.self_attention\.", ".transformer_blocks.0.attn1."),
    (r"\.context_attention\.", ".transformer_blocks.0.attn2."),
    (r"\.queries\.", ".to_q."),
    (r"\.keys\.", ".to_k."),
    (r"\.values\.", ".to_v."),
    (r"\.(attn\d)\.out\.", r".\1.to_out.0."),
    (r"\.feed\.inner\.", ".transformer_blocks.0.ff.net.0.proj."),
    (r"\.feed\.outer\.", ".transformer_blocks.0.ff.net.2."),
    (r"\.norms\.0\.", ".transformer_blocks.0.norm1."),
    (r"\.norms\.1\.", ".transformer_blocks.0.norm2."),
    (r"\.norms\.2\.", ".transformer_blocks.0.norm3."),
)
"""The U-Net, below `model.diffusion_model.`."""

GUIDANCE: Rules = (
    *UNET,
    (r"^stem\.", "input_hint_block."),
    (r"^zeros\.(\d+)\.", r"zero_convs.\1.0."),
    (r"^zero_middle\.", "middle_block_out.0."),
    (r"^fusion\.convolutions\.(\d+)\.", r"down\1.0."),
)
"""The guidance network, below `control_model.`. ControlNet's files have no `down...`: that is DiAD's fusion."""

AUTOENCODER: Rules = (
    (r"^(encoder|decoder)\.first\.", r"\1.conv_in."),
    (r"^encoder\.levels\.(\d+)\.blocks\.", r"encoder.down.\1.block."),
    (r"^encoder\.levels\.(\d+)\.halving\.", r"encoder.down.\1.downsample.conv."),
    (r"^decoder\.levels\.(\d+)\.blocks\.", r"decoder.up.\1.block."),
    (r"^decoder\.levels\.(\d+)\.doubling\.", r"decoder.up.\1.upsample."),
    (r"\.middle\.0\.", ".mid.block_1."),
    (r"\.middle\.1\.", ".mid.attn_1."),
    (r"\.middle\.2\.", ".mid.block_2."),
    (r"\.first\.0\.", ".norm1."),
    (r"\.first\.2\.", ".conv1."),
    (r"\.second\.0\.", ".norm2."),
    (r"\.second\.2\.", ".conv2."),
    (r"\.shortcut\.", ".nin_shortcut."),
    (r"\.queries\.", ".q."),
    (r"\.keys\.", ".k."),
    (r"\.values\.", ".v."),
    (r"\.out\.", ".proj_out."),
    (r"\.last\.0\.", ".norm_out."),
    (r"\.last\.2\.", ".conv_out."),
    (r"^moments\.", "quant_conv."),
    (r"^code\.", "post_quant_conv."),
)
"""The autoencoder, below `first_stage_model.`, or below nothing in a file of its own."""
