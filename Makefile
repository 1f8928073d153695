# adze - build, demo, tests, installation.  One non-recursive file; everything lands in build/.
#
#   make            programs into build/bin, the CPU kernels into build/lib/adze
#   make demo       compress a real model twice on real text (pipelines/demo.mk)
#   make test       all tests; closes with "N passed, N failed" (DEVICE=cuda: all that needs a GPU)
#   make cuda       the CUDA kernels into build/lib/adze, where nvcc is found (CUDA_ARCH: what for), and what joins GPUs,
#                   where NCCL is found (NCCL=DIR that holds include/nccl.h and lib/libnccl.so.2, such as pip's nvidia/nccl)
#   make bench      timings against the machine's limits and, with PEERS=DIR, against other programs (tools/bench/README.md;
#                   DEVICE=cuda: a distillation step on a GPU, beside PyTorch's with PYTHON=; PART= as in tests/cuda/device.sh)
#   make install PREFIX=/usr/local DESTDIR= PROGRAM_PREFIX=
#
#   make help       this page
#
# SAN=1 builds with AddressSanitizer and UBSan into build/san, DEBUG=1 without optimisation into build/debug.
# Without -j, as many jobs run as there are processors.
# SPDX-License-Identifier: Apache-2.0

comma := ,
.DELETE_ON_ERROR:
.SUFFIXES:
.SECONDARY:
.DEFAULT_GOAL := all
ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc)
endif

VERSION := 0.1.0
PREFIX ?= /usr/local
B := build$(if $(SAN),/san)$(if $(DEBUG),/debug)
CC ?= cc
ifeq ($(origin CXX),default)
CXX := $(if $(findstring gcc,$(CC)),$(subst gcc,g++,$(CC)),g++)
endif
NVCC ?= nvcc
OPTFLAGS := $(if $(DEBUG),-O0,-O2) -g
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wno-format-zero-length $(if $(WERROR),-Werror)
SANFLAGS := $(if $(SAN),-fsanitize=address -fsanitize=undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
CPPFLAGS += -D_GNU_SOURCE -DADZE_VERSION_TEXT='"$(VERSION)"'
CFLAGS += -std=c11 $(OPTFLAGS) $(WARN) $(SANFLAGS) -fno-math-errno -pthread
CXXFLAGS += -std=c++20 $(OPTFLAGS) -Wall -Wextra -Wshadow -Wno-unknown-pragmas $(if $(WERROR),-Werror) $(SANFLAGS) -fno-math-errno -fPIC
# real code for A100 and H100, PTX for what comes later; -Xptxas -v is read by tools/check-cuda
CUDA_ARCH ?= -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a -gencode arch=compute_90,code=compute_90
NVCCFLAGS := -std=c++20 -O3 -lineinfo $(CUDA_ARCH) -Xptxas -v -Xcompiler -fPIC,-Wall$(if $(WERROR),$(comma)-Werror) $(if $(WERROR),-Werror all-warnings)
LDFLAGS += $(SANFLAGS) -pthread
LDLIBS := -lmsgpackc -llz4 -ljansson -lpcre2-8 -lutf8proc -lxxhash -ldl -lm

LIB_SRC := $(sort $(wildcard common/*/*.c kernels/*.c kernels/ref/*.c))
CPU_SRC := $(sort $(wildcard kernels/cpu/*.c))
MPI_SRC := $(sort $(wildcard common/comm/mpi/*.c))
CUDA_SRC := $(sort $(wildcard kernels/cuda/*.cu))
SHIM_SRC := $(filter-out kernels/cuda/product_lt.cu,$(CUDA_SRC)) $(sort $(wildcard tests/cuda/shim/*.cc))
STAGE_SRC := $(sort $(wildcard stages/*.c))
TOOL_SRC := $(sort $(wildcard tools/*.c))
TEST_SRC := $(sort $(wildcard tests/*/test_*.c))
TEST_SH := $(sort $(wildcard tests/*/test_*.sh))
TEST_AUX := $(sort $(wildcard tests/oracle/*.c tests/*/aux_*.c))

obj = $(patsubst %.c,$(B)/obj/%.o,$(1))
LIB := $(B)/libadze.a
CPU_SO := $(B)/lib/adze/adze-cpu.so
CUDA_OBJ := $(patsubst %.cu,$(B)/obj/%.o,$(CUDA_SRC)) $(B)/obj/kernels/cuda/table.o
CUDA_SO := $(B)/lib/adze/adze-cuda.so
SHIM_OBJ := $(patsubst %,$(B)/obj/shim/%.o,$(basename $(SHIM_SRC))) $(B)/obj/kernels/cuda/table.o
SHIM_SO := $(B)/tests/cuda/adze-cuda.so
# Exchanges between processes, where an MPI is installed (see tools/need-packages: test)
MPICC ?= $(shell command -v mpicc)
MPI_SO := $(if $(MPICC),$(B)/lib/adze/adze-mpi.so)
# The same between GPUs, where NCCL is: beside CUDA, or of the system
CUDA_HOME := $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v $(NVCC))))
NCCL ?= $(patsubst %/include/nccl.h,%,$(firstword $(wildcard $(addsuffix /include/nccl.h,$(CUDA_HOME) /usr/local /usr))))
NCCL_LIB = $(firstword $(wildcard $(foreach d,lib lib64 lib/x86_64-linux-gnu,$(NCCL)/$(d)/libnccl.so.2)))
NCCL_SRC := $(sort $(wildcard common/comm/nccl/*.c))
NCCL_SO := $(if $(CUDA_HOME),$(if $(NCCL_LIB),$(if $(wildcard $(NCCL)/include/nccl.h),$(B)/lib/adze/adze-nccl.so)))
SHIM_NCCL_OBJ := $(patsubst %.c,$(B)/obj/shim/%.o,$(NCCL_SRC) $(sort $(wildcard tests/cuda/shim/nccl/*.c)))
SHIM_NCCL_SO := $(B)/tests/cuda/adze-nccl.so
PROGS := $(patsubst stages/%.c,$(B)/bin/%,$(STAGE_SRC)) $(patsubst tools/%.c,$(B)/bin/%,$(TOOL_SRC))
TESTS := $(patsubst tests/%.c,$(B)/tests/%,$(TEST_SRC))

.PHONY: all tests mpi cuda test demo bench install clean help
all: $(PROGS) $(CPU_SO) $(MPI_SO)
tests: $(TESTS) $(SHIM_SO) $(SHIM_NCCL_SO)
mpi: $(MPI_SO)

# Missing packages are installed when root or sudo allows; otherwise the exact line is printed.
$(B)/.deps: tools/need-packages
	@mkdir -p $(B) && sh $< build && touch $@
$(B)/.deps-test $(B)/.deps-demo: $(B)/.deps-%: tools/need-packages | $(B)/.deps
	@sh $< $* && touch $@

$(B)/obj/%.o: %.c | $(B)/.deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<
$(B)/obj/tests/%.o: tests/%.c | $(B)/.deps-test
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<
$(B)/obj/common/comm/mpi/%.o: CPPFLAGS += $(shell $(MPICC) --showme:compile)
$(B)/obj/common/comm/mpi/%.o: CFLAGS += -fPIC
$(B)/obj/kernels/cpu/%.o: CFLAGS += -fPIC -fopenmp -O3

$(LIB): $(call obj,$(LIB_SRC))
	@rm -f $@
	$(AR) rcs $@ $^
$(B)/bin/%: $(B)/obj/stages/%.o $(LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $< $(LIB) $(LDLIBS)
$(B)/bin/%: $(B)/obj/tools/%.o $(LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $< $(LIB) $(LDLIBS)
$(CPU_SO): $(call obj,$(CPU_SRC))
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -shared -fopenmp -o $@ $^ -ldnnl -lm
$(MPI_SO): $(call obj,$(MPI_SRC))
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -shared -o $@ $^ $(shell $(MPICC) --showme:link)
# The CUDA kernels, compiled by nvcc for GPUs and by the host's compiler against the shim for the tests.
$(B)/obj/kernels/cuda/table.o: CFLAGS += -fPIC
$(B)/obj/kernels/cuda/%.o: kernels/cuda/%.cu | $(B)/.deps
	@mkdir -p $(@D)
	$(NVCC) $(NVCCFLAGS) -MMD -MP -c -o $@ $< 2>$@.log || { cat $@.log; exit 1; }
$(CUDA_SO): $(CUDA_OBJ)
	@mkdir -p $(@D)
	$(NVCC) $(CUDA_ARCH) -shared -o $@ $^ -lcublasLt
$(B)/obj/shim/%.o: %.cu | $(B)/.deps-test
	@mkdir -p $(@D)
	$(CXX) -x c++ $(CPPFLAGS) -Itests/cuda/shim $(CXXFLAGS) -MMD -MP -c -o $@ $<
$(B)/obj/shim/%.o: %.cc | $(B)/.deps-test
	@mkdir -p $(@D)
	$(CXX) $(CPPFLAGS) -Itests/cuda/shim $(CXXFLAGS) -MMD -MP -c -o $@ $<
$(SHIM_SO): $(SHIM_OBJ)
	@mkdir -p $(@D)
	$(CXX) $(LDFLAGS) -shared -o $@ $^ -lm
$(B)/obj/common/comm/nccl/%.o: CPPFLAGS += -isystem $(CUDA_HOME)/include -I$(NCCL)/include
$(B)/obj/common/comm/nccl/%.o: CFLAGS += -fPIC
$(NCCL_SO): $(call obj,$(NCCL_SRC))
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -shared -o $@ $^ $(NCCL_LIB) $(if $(filter /usr $(CUDA_HOME),$(NCCL)),,-Wl$(comma)-rpath$(comma)$(dir $(NCCL_LIB))) \
		-L$(CUDA_HOME)/lib64 -L$(CUDA_HOME)/lib -lcudart_static -lrt -ldl
$(B)/obj/shim/%.o: %.c | $(B)/.deps-test
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -Itests/cuda/shim/nccl $(CFLAGS) -fPIC -MMD -MP -c -o $@ $<
$(SHIM_NCCL_SO): $(SHIM_NCCL_OBJ) $(SHIM_SO)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -shared -o $@ $(SHIM_NCCL_OBJ) -L$(@D) -l:$(notdir $(SHIM_SO)) -Wl,-rpath,'$$ORIGIN'
ifneq ($(CUDA_HOME),)
cuda: all $(CUDA_SO) $(NCCL_SO)
	@$(if $(NCCL_SO),,echo "exchanges between GPUs not built: no nccl.h (NCCL=DIR names the folder that holds include/nccl.h and lib/libnccl.so.2)")
else
cuda: all
	@echo "CUDA backend not built: no nvcc"
endif
$(B)/tests/%: $(B)/obj/tests/%.o $(call obj,$(TEST_AUX)) $(LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $< $(call obj,$(TEST_AUX)) $(LIB) -lcmocka $(LDLIBS)

# `tests` may just have installed an MPI: look again
test: all tests $(if $(filter cuda,$(DEVICE)),cuda)
	@$(if $(MPI_SO),,$(MAKE) -s mpi)
	@B=$(B) $(if $(filter cuda,$(DEVICE)),PART="$(PART)" sh tests/cuda/device.sh test,sh tests/run.sh $(TESTS) $(TEST_SH))

demo: all $(B)/.deps-demo
	@$(MAKE) --no-print-directory -f pipelines/demo.mk BIN=$(CURDIR)/$(B)/bin

$(B)/bench/bench-gemm: $(B)/obj/tools/bench/gemm.o $(LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -fopenmp -o $@ $< $(LIB) -ldnnl $(LDLIBS)
ifeq ($(DEVICE),cuda)
bench: cuda $(B)/tests/train/test_batches
	@B=$(B) PYTHON="$(PYTHON)" PART="$(PART)" sh tests/cuda/device.sh bench
else
bench: all $(B)/bench/bench-gemm
	@python3 tools/bench/run.py --build $(B) $(if $(PEERS),--peers $(PEERS)) $(BENCH)
endif

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/adze
	for p in $(PROGS); do install -m 755 $$p $(DESTDIR)$(PREFIX)/bin/$(PROGRAM_PREFIX)$$(basename $$p); done
	install -m 755 $(CPU_SO) $(MPI_SO) $(wildcard $(CUDA_SO) $(NCCL_SO)) $(DESTDIR)$(PREFIX)/lib/adze/
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/adze/pipelines
	for p in $(PROGS); do $$p --man >$(DESTDIR)$(PREFIX)/share/man/man1/$(PROGRAM_PREFIX)$$(basename $$p).1; done
	install -m 644 $(wildcard pipelines/*.mk) $(DESTDIR)$(PREFIX)/share/adze/pipelines/

help:
	@sed -n '2,/^$$/{s/^# \{0,1\}//p}' Makefile

clean:
	rm -rf build

-include $(patsubst %.o,%.d,$(CUDA_OBJ) $(SHIM_OBJ) $(SHIM_NCCL_OBJ) $(call obj,$(NCCL_SRC) $(LIB_SRC) $(CPU_SRC) $(MPI_SRC) $(STAGE_SRC) $(TOOL_SRC) tools/bench/gemm.c $(TEST_SRC) $(TEST_AUX)))
