FROM python:3.11-slim-trixie
# pg_dump and pg_restore are for `groundswell backup` and `restore`: their release (17) must not be older than that
# of the server in docker-compose.yml (16)
RUN apt-get update && apt-get install -y --no-install-recommends libglib2.0-0t64 postgresql-client \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app

# Everything that Groundswell needs, in a layer of its own: a change of the sources leaves it as it is, and the
# image is built again in seconds. Empty packages stand for the sources here.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir clustering ml_backend sync && touch clustering/__init__.py ml_backend/__init__.py sync/__init__.py
# The package index has torch builds for GPUs, which run on a CPU too but are about 3 GB larger. TORCH_INDEX is the
# address of torch's own index of builds for the CPU, see .env.example
ARG TORCH_INDEX=""
# one more extra of Groundswell, such as ray
ARG EXTRAS=""
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt \
    ".[backend,worker,onnx,postgres${EXTRAS:+,$EXTRAS}]"

COPY clustering clustering
COPY ml_backend ml_backend
COPY sync sync
RUN pip install --no-cache-dir --no-deps --force-reinstall .
# glibc returns big activation buffers to the kernel after every forward; keeping them halves encoding time
ENV MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=268435456 \
    MALLOC_ARENA_MAX=1 OMP_WAIT_POLICY=PASSIVE
RUN useradd --create-home groundswell && mkdir /data && chown groundswell /data
USER groundswell
VOLUME /data
EXPOSE 9090
CMD ["groundswell", "--help"]
