// Writes to address 0x10: the process gets an error, NVML an event with XID 31. No other process is harmed.
#include <cstdio>

__global__ void write_there() { *(volatile int *)0x10 = 1; }

int main() {
    write_there<<<1, 1>>>();
    std::puts(cudaGetErrorString(cudaDeviceSynchronize()));
}
