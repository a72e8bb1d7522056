FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends libglib2.0-0 && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY clustering clustering
COPY ml_backend ml_backend
COPY sync sync
RUN pip install --no-cache-dir -c constraints.txt '.[backend,worker,onnx,postgres]'
# glibc returns big activation buffers to the kernel after every forward; keeping them halves encoding time
ENV MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=268435456 \
    MALLOC_ARENA_MAX=1 OMP_WAIT_POLICY=PASSIVE
RUN useradd --create-home groundswell && mkdir /data && chown groundswell /data
USER groundswell
VOLUME /data
EXPOSE 9090
CMD ["groundswell", "--help"]
