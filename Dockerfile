# syntax=docker/dockerfile:1
# Two images of gafi-cli. They have never been built, and the CUDA code has never run on a GPU.
#
#   docker build --target cpu -t gafi .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" gafi quickstart
#
#   docker build --target cuda --build-arg CUDA_COMPUTE_CAP=80 -t gafi:cuda .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" gafi:cuda doctor
#
# /work is the working folder and the home folder, so downloads and caches are kept in what you mount there.

ARG RUST=1.95
ARG CUDA=12.6.3
ARG UBUNTU=24.04

FROM rust:${RUST}-slim-bookworm AS chef
# Splits a build in two: dependencies, cached until Cargo.lock or a Cargo.toml changes, then our crates.
RUN cargo install cargo-chef --locked --version 0.1.78

FROM chef AS plan
WORKDIR /src
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS build-cpu
WORKDIR /src
ENV CARGO_PROFILE_RELEASE_STRIP=true
COPY --from=plan /src/recipe.json recipe.json
RUN cargo chef cook --release --locked --package gafi-cli --features gafi-cli/onnx --recipe-path recipe.json
COPY . .
RUN cargo build --release --locked --package gafi-cli --features gafi-cli/onnx

FROM nvidia/cuda:${CUDA}-cudnn-devel-ubuntu${UBUNTU} AS build-cuda
# nvidia-smi, which would detect it, does not run in a build.
ARG CUDA_COMPUTE_CAP=80
ENV CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP} CARGO_PROFILE_RELEASE_STRIP=true \
    RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:${PATH}
COPY --from=chef /usr/local/rustup /usr/local/rustup
COPY --from=chef /usr/local/cargo /usr/local/cargo
WORKDIR /src
COPY --from=plan /src/recipe.json recipe.json
RUN cargo chef cook --release --locked --package gafi-cli --features gafi-cli/onnx,gafi-cli/cuda --recipe-path recipe.json
COPY . .
RUN cargo build --release --locked --package gafi-cli --features gafi-cli/onnx,gafi-cli/cuda

FROM nvidia/cuda:${CUDA}-cudnn-runtime-ubuntu${UBUNTU} AS cuda
COPY --from=build-cuda /src/target/release/gafi-cli /usr/local/bin/gafi-cli
RUN useradd --uid 10001 --no-create-home --home-dir /work gafi && install --directory --owner gafi /work
USER 10001
WORKDIR /work
ENV HOME=/work
ENTRYPOINT ["gafi-cli"]
CMD ["--help"]

# The last stage is the default target.
FROM debian:bookworm-slim AS cpu
COPY --from=build-cpu /src/target/release/gafi-cli /usr/local/bin/gafi-cli
RUN useradd --uid 10001 --no-create-home --home-dir /work gafi && install --directory --owner gafi /work
USER 10001
WORKDIR /work
ENV HOME=/work
ENTRYPOINT ["gafi-cli"]
CMD ["--help"]
