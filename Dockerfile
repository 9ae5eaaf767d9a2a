# mddbench in a container: docker build -t mddbench . && docker run --rm -v "$PWD/out:/work/mddbench-out" mddbench run --all
# With a GPU: docker run --gpus all ...
FROM python:3.11-slim
COPY . /src
RUN pip install --no-cache-dir -c /src/constraints.txt "/src[onnx,dinov2]" && rm -rf /src/build
WORKDIR /work
ENTRYPOINT ["mddbench"]
