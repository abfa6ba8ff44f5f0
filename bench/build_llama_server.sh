#!/usr/bin/env bash
# Builds llama.cpp's own server from the sources inside llama-cpp-python's package, as a peer of bench/serving.py.
# usage: bench/build_llama_server.sh FOLDER [JOBS]          prints the program's path at the end
# Nothing but pip's package index is asked; tests, examples, network transfers and the web page are left out.
set -euo pipefail
VERSION=0.3.36
folder=${1:?usage: build_llama_server.sh FOLDER [JOBS]}
jobs=${2:-1}
mkdir -p "$folder"
cd "$folder"
python=${PYTHON:-python3}

package=llama_cpp_python-$VERSION.tar.gz
[ -f "$package" ] || "$python" -m pip download --quiet --no-deps \
    --no-binary llama-cpp-python "llama-cpp-python==$VERSION"
[ -d source ] || { mkdir source.part && tar -xzf "$package" -C source.part --strip-components=1 \
    && mv source.part source; }

if ! command -v cmake >/dev/null; then
    [ -x tools/bin/cmake ] || { "$python" -m venv tools && tools/bin/pip install --quiet cmake; }
    PATH=$PWD/tools/bin:$PATH
fi

# GGML_NATIVE: the instructions of this machine, as homebox uses them.
cmake -S source/vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release \
    -DGGML_NATIVE=ON -DGGML_OPENMP=ON -DBUILD_SHARED_LIBS=OFF \
    -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_HTTPLIB=ON \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=ON \
    -DLLAMA_BUILD_WEBUI=OFF > configure.log
cmake --build build --target llama-server --parallel "$jobs" > build.log
echo "$PWD/build/bin/llama-server"
