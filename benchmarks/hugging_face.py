"""TIGER's weights in Hugging Face's T5, for benchmarks and for the test of parity."""

from __future__ import annotations

from recbole_r3vae.model.generator.tiger import TIGER


def t5_of(model: TIGER):
    """``T5ForConditionalGeneration`` of the same sizes with the same weights, for evaluation.

    Its tokens are the model's: 0 pads and starts the decoder, then the codes level by level, then users. There is no end token.

    Raises:
        RuntimeError: a weight found no place.
    """
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=model.embedding.num_embeddings,
        d_model=model.embedding.embedding_dim,
        d_kv=model.encoder[0].out.in_features // model.n_heads,
        d_ff=model.encoder[0].inner.out_features,
        num_heads=model.n_heads,
        num_layers=len(model.encoder),
        num_decoder_layers=len(model.decoder),
        relative_attention_num_buckets=model.encoder_bias.table.num_embeddings,
        relative_attention_max_distance=model.encoder_bias.max_distance,
        feed_forward_proj="relu",
        tie_word_embeddings=True,
        pad_token_id=0,
        decoder_start_token_id=0,
        eos_token_id=None,
    )
    state = {name: model.embedding.weight for name in ("shared.weight", "lm_head.weight")}
    for stack in ("encoder", "decoder"):
        state[f"{stack}.embed_tokens.weight"] = model.embedding.weight
        state[f"{stack}.final_layer_norm.weight"] = getattr(model, f"{stack}_norm").weight
        position = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        state[position] = getattr(model, f"{stack}_bias").table.weight
        for index, layer in enumerate(getattr(model, stack)):
            parts = [(layer.attention_norm, "SelfAttention", "qkvo", [*layer.qkv.weight.chunk(3), layer.out.weight])]
            if stack == "decoder":
                weights = [layer.cross_query.weight, *layer.cross_kv.weight.chunk(2), layer.cross_out.weight]
                parts.append((layer.cross_norm, "EncDecAttention", "qkvo", weights))
            parts.append((layer.mlp_norm, "DenseReluDense", ("wi", "wo"), [layer.inner.weight, layer.outer.weight]))
            for place, (norm, name, matrices, weights) in enumerate(parts):
                prefix = f"{stack}.block.{index}.layer.{place}"
                state[f"{prefix}.layer_norm.weight"] = norm.weight
                state.update({f"{prefix}.{name}.{matrix}.weight": weight for matrix, weight in zip(matrices, weights)})
    peer = T5ForConditionalGeneration(config)
    peer.load_state_dict(state)
    return peer.eval()
