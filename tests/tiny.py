"""What tests build by hand (a module of its own: `conftest` is not one name, every folder may have one)."""

#: The words of the small corpus: strong ones decide a sentence's rating.
POSITIVE = ("good", "great", "lovely", "superb")
NEGATIVE = ("bad", "awful", "dull", "poor")
FILLERS = ("the", "film", "plot", "cast", "is", "was", "and", "very", "quite", "a", "story", "scene", "so", "it")


def tiny_config(**changes):
    """BERT's architecture with 4 layers and hidden size 32."""
    from transformers import BertConfig

    settings = {
        "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
        "intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.1,
    }  # fmt: skip
    return BertConfig(**(settings | changes))
