# The image of the driver, for x86-64 and aarch64 alike: nothing here names an architecture. Every stage runs on the
# architecture that it builds for; all dependencies have wheels for both.
#
#   docker build --build-arg VERSION=v0.5.0 --build-arg GIT_COMMIT=$(git rev-parse HEAD) -t dra-driver-nvidia-gpu .
#   docker buildx build --platform linux/amd64,linux/arm64 … for one tag with both
#
# Every base image is an argument, so that others (a mirror's, or ones made without any registry) can take its place.
ARG BASE=python:3.11-slim-bookworm
ARG RUST=rust:1.95-slim-bookworm
ARG GO=golang:1.26-bookworm

# nvidia-cdi-hook, which runs on the host with none of this image's libraries: linked statically.
FROM ${GO} AS hook
RUN command -v gcc >/dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends gcc libc6-dev; }
COPY deploy/image/cdi-hook /hook
# Lazily bound, because it looks NVML's functions up only once it has loaded the library.
RUN cd /hook && CGO_ENABLED=1 go build -trimpath -buildvcs=false -tags netgo,osusergo \
        -ldflags "-s -w -linkmode external -extldflags '-static -Wl,-z,lazy'" \
        -o /nvidia-cdi-hook github.com/NVIDIA/nvidia-container-toolkit/cmd/nvidia-cdi-hook \
    && /nvidia-cdi-hook --version

FROM ${RUST} AS rust

# The driver and all it needs, installed from wheels. The compilers stay here.
FROM ${BASE} AS driver
RUN apt-get update -q && apt-get install -y -q --no-install-recommends binutils gcc libc6-dev \
    && { test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
         || apt-get install -y -q --no-install-recommends python3-dev; }
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:$PATH
RUN python3 -m venv /build && /build/bin/pip install -q 'pip>=25.1' && python3 -m venv --without-pip /opt/nvdra
WORKDIR /source
COPY . .
# Cargo compares modification times: a cached build of another tree with older files would pass for this one's.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/native/target \
    find native -path native/target -prune -o -type f -exec touch {} + && \
    PYO3_PYTHON=/build/bin/python3 /build/bin/pip wheel -q -c constraints.txt -w /wheels .
# The probe of IMEX daemons, which runs every second: linked statically, it starts in a millisecond.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cd native/domain-daemon && cargo rustc -q --release --bin compute-domain-daemon --target-dir /daemon -- \
        -C target-feature=+crt-static -C strip=symbols -C panic=abort
# Some wheels carry debug information, which is most of their size.
RUN /build/bin/pip --python /opt/nvdra/bin/python3 install -q --no-compile --no-index --find-links /wheels \
        dra-driver-nvidia-gpu \
    && find /opt/nvdra -name '*.so*' -type f -exec strip --strip-debug {} +

# What is to be in the image, put together on the base.
FROM ${BASE} AS root
# wget to read metrics and kill to ask for stacks from inside a container, both by busybox; the rest the base has.
RUN apt-get update -q && apt-get install -y -q --no-install-recommends busybox \
    && ln -s busybox /usr/bin/wget && ln -s busybox /usr/bin/kill
COPY --from=driver /opt/nvdra /opt/nvdra
COPY --from=hook /nvidia-cdi-hook /usr/bin/nvidia-cdi-hook
COPY --from=driver /daemon/release/compute-domain-daemon /usr/bin/compute-domain-daemon
COPY deploy/image/kubelet-plugin-prestart.sh /usr/bin/kubelet-plugin-prestart.sh
COPY LICENSE /LICENSE
COPY deploy/image/slim.sh /slim.sh
RUN sh /slim.sh && rm /slim.sh
# What the chart's scripts, the pods' commands and people use.
RUN for program in compute-domain-controller compute-domain-kubelet-plugin gpu-kubelet-plugin webhook nvdra; \
       do ln -s /opt/nvdra/bin/$program /usr/bin/$program; done \
    && for program in compute-domain-controller compute-domain-daemon compute-domain-kubelet-plugin gpu-kubelet-plugin webhook nvidia-cdi-hook bash; \
       do "$program" --version || exit 1; done \
    && for tool in bash sh sed cp mount find head ls basename date env ln sleep cat kill wget tail chroot rm timeout readlink; \
       do test -x "/usr/bin/$tool" || test -x "/usr/sbin/$tool" || { echo "no $tool"; exit 1; }; done

# In one layer, without what the steps above removed.
FROM scratch
COPY --from=root / /
ARG VERSION=unknown
ARG GIT_COMMIT=unknown
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVDRA_COMMIT=${GIT_COMMIT} \
    NVIDIA_DISABLE_REQUIRE=true \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=utility
LABEL name="DRA Driver for NVIDIA GPUs" \
      vendor="NVIDIA" \
      version="${VERSION}" \
      release="N/A" \
      summary="DRA Driver for NVIDIA GPUs" \
      description="Dynamic Resource Allocation for NVIDIA GPUs and multi-node NVLink" \
      com.nvidia.git-commit="${GIT_COMMIT}" \
      io.k8s.display-name="DRA Driver for NVIDIA GPUs" \
      org.opencontainers.image.description="Dynamic Resource Allocation for NVIDIA GPUs and multi-node NVLink" \
      org.opencontainers.image.source="https://github.com/nvdra/dra-driver-nvidia-gpu"
