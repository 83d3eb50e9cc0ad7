# gmm-dask in a container: without root, on a read-only root file system, with one folder to write in, /work.
#
#   docker build --tag gmm-dask .
#   docker run --rm --read-only --tmpfs /tmp --volume "$PWD:/work" --user "$(id -u):$(id -g)" gmm-dask run job.yaml
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY gmm_dask gmm_dask
COPY pipeline pipeline
COPY flows flows
RUN python -m venv /opt/gmm-dask && \
    /opt/gmm-dask/bin/pip install --no-cache-dir --constraint constraints.txt ".[s3,gcs,azure,http,hdf5,dashboard]"

FROM python:3.13-slim
COPY --from=build /opt/gmm-dask /opt/gmm-dask
RUN useradd --uid 1000 --no-create-home --home-dir /work gmm && install --directory --owner gmm /work
# kept between runs: compiled kernels and fonts in /work/.cache, Prefect's settings and database in /work/.prefect
ENV PATH=/opt/gmm-dask/bin:$PATH \
    HOME=/work \
    NUMBA_CACHE_DIR=/work/.cache/numba \
    MPLCONFIGDIR=/work/.cache/matplotlib \
    PREFECT_HOME=/work/.prefect \
    PYTHONDONTWRITEBYTECODE=1
USER 1000
WORKDIR /work
ENTRYPOINT ["gmm-dask"]
CMD ["--help"]
