//! The portable-curve test: whole jobs, from the file to the last epoch, follow the curve that PyTorch follows under the
//! protocol (`tests/vectors/curves`).

#![allow(clippy::unwrap_used)]

#[path = "common/curve.rs"]
mod curve;

use curve::follows;

#[tokio::test]
async fn adam() {
    follows("adam", &[]).await;
}

#[tokio::test]
async fn adamw_with_dropout_cosine_and_clipping() {
    follows("dropout", &[]).await;
}

#[tokio::test]
async fn sgd_with_nesterov_and_steps() {
    follows("sgd", &[]).await;
}

#[tokio::test]
async fn cnn_with_batch_norm_and_residual() {
    follows("cnn", &[]).await;
}

#[tokio::test]
async fn transformer_on_tokens_with_padding() {
    follows("transformer", &[]).await;
}

#[tokio::test]
async fn lstm_and_gru() {
    follows("lstm", &[]).await;
}
