# The program in an image: docker build -t nibblecast . ; with its GPU side: docker build -t nibblecast:cuda --build-arg VARIANT=cuda .
#   docker run --rm -v /data:/data [--gpus all] nibblecast quantize /data/DeepSeek-V4-Flash /data/OUT --calib /data/texts.jsonl
# tools/check_packages runs these steps without Docker.
ARG VARIANT=cpu
ARG CUDA=13.0.2

FROM debian:12-slim AS cpu-build
FROM debian:12-slim AS cpu-run
FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS cuda-build
# With cuBLAS; the driver is the host's.
FROM nvidia/cuda:${CUDA}-runtime-ubuntu24.04 AS cuda-run

FROM ${VARIANT}-build AS build
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates git make
WORKDIR /src
COPY . .
RUN make deb

FROM ${VARIANT}-run
COPY --from=build /src/build/release/nibblecast.deb /tmp/nibblecast.deb
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates /tmp/nibblecast.deb && rm -rf /var/lib/apt/lists/* /tmp/nibblecast.deb
WORKDIR /data
ENTRYPOINT ["nibblecast"]
