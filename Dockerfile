# Prediction on a CPU. documentation/deployment.md says how to build and run it.
FROM python:3.12-slim AS build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
# The CPU build of PyTorch: the default one brings CUDA. Versions are pyproject.toml's to bound.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu
COPY . /src
RUN pip install --no-cache-dir "/src[export]"

FROM python:3.12-slim
COPY --from=build /opt/venv /opt/venv
# HOME, as any user may run it, without an account too: docker run --user "$(id -u):$(id -g)"
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp
RUN useradd --uid 1000 nnunet
USER 1000
WORKDIR /data
ENTRYPOINT ["nnUNetv2_cafr", "predict"]
CMD ["--help"]
