"""The configurations of the two reference models, spelled as config.json on the Hugging Face hub spells them.

They keep the real models' awkward shapes: a query width unequal to the hidden size, an MLP of the vision tower that is
16 above a multiple of 32, more embedding rows than tokens, seven layers of which only the sixth attends globally.
"""

from __future__ import annotations

from typing import Any

from edgekit.families.hub_files import image_processor

PAD, EOS, BOS, UNK = 0, 1, 2, 3
START_OF_TURN, END_OF_TURN, START_OF_IMAGE, END_OF_IMAGE = 4, 5, 6, 7
SENTENCEPIECE_SIZE = 2048
IMAGE_TOKEN = SENTENCEPIECE_SIZE  # the id after the SentencePiece vocabulary, as in Gemma 3
TEXT_ROWS = 2112
IMAGE_TOKENS = 16
SIGLIP_PIECES = 1600

GEMMA_IMAGE_SIZE = 224
SIGLIP_IMAGE_SIZE = 112

_TOWER: dict[str, Any] = {
    "hidden_size": 160,
    "intermediate_size": 336,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "attention_dropout": 0.0,
}

_VISION: dict[str, Any] = {**_TOWER, "model_type": "siglip_vision_model", "patch_size": 14, "num_channels": 3}

GEMMA_CONFIG: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": START_OF_IMAGE,
    "eoi_token_index": END_OF_IMAGE,
    "eos_token_id": [EOS, END_OF_TURN],
    "image_token_index": IMAGE_TOKEN,
    "initializer_range": 0.02,
    "mm_tokens_per_image": IMAGE_TOKENS,
    "model_type": "gemma3",
    "text_config": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "bos_token_id": BOS,
        "cache_implementation": "hybrid",
        "eos_token_id": EOS,
        "final_logit_softcapping": None,
        "head_dim": 64,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 512,
        "max_position_embeddings": 8192,
        "model_type": "gemma3_text",
        "num_attention_heads": 8,
        "num_hidden_layers": 7,
        "num_key_value_heads": 4,
        "pad_token_id": PAD,
        "query_pre_attn_scalar": 64,
        "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "rope_theta": 1000000.0,
        "sliding_window": 64,
        "sliding_window_pattern": 6,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": TEXT_ROWS,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.52.3",
    "vision_config": {
        **_VISION,
        "image_size": GEMMA_IMAGE_SIZE,
        "torch_dtype": "bfloat16",
        "vision_use_head": False,
    },
}

SIGLIP_CONFIG: dict[str, Any] = {
    "architectures": ["SiglipModel"],
    "initializer_factor": 1.0,
    "model_type": "siglip",
    "text_config": {
        **_TOWER,
        "bos_token_id": None,
        "eos_token_id": 1,
        "max_position_embeddings": 64,
        "model_type": "siglip_text_model",
        "pad_token_id": 1,
        "projection_size": 160,
        "torch_dtype": "bfloat16",
        "vocab_size": SIGLIP_PIECES,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.52.3",
    "vision_config": {
        **_VISION,
        "image_size": SIGLIP_IMAGE_SIZE,
        "torch_dtype": "bfloat16",
        "vision_use_head": True,
    },
}

GEMMA_GENERATION: dict[str, Any] = {
    "bos_token_id": BOS,
    "cache_implementation": "hybrid",
    "do_sample": False,
    "eos_token_id": [EOS, END_OF_TURN],
    "pad_token_id": PAD,
    "transformers_version": "4.52.3",
}

GEMMA_PREPROCESSOR: dict[str, Any] = {
    **image_processor(GEMMA_IMAGE_SIZE, 2, "Gemma3ImageProcessor"),
    "do_convert_rgb": True,
    "do_pan_and_scan": None,
    "image_seq_length": IMAGE_TOKENS,
    "pan_and_scan_max_num_crops": None,
    "pan_and_scan_min_crop_size": None,
    "pan_and_scan_min_ratio_to_activate": None,
    "processor_class": "Gemma3Processor",
}
SIGLIP_PREPROCESSOR: dict[str, Any] = {
    **image_processor(SIGLIP_IMAGE_SIZE, 3, "SiglipImageProcessor"),
    "processor_class": "SiglipProcessor",
}
