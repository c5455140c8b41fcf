# Signs of an NVIDIA driver; none where there is none.
DRIVER := $(wildcard /proc/driver/nvidia/version /usr/lib/*/libcuda.so.1 /usr/lib64/libcuda.so.1 /usr/local/nvidia/lib64/libcuda.so.1)
