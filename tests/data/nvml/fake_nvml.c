/* A fake libnvidia-ml: one card whose state the macros below choose. Tests build it.
 *
 *   COUNT          cards [1]
 *   INIT           what nvmlInit returns [0]
 *   ENERGY         what the energy counter's call returns [0]
 *   STEP_MS        time between two steps of the counter in ms [10]
 *   POWER          what the power's call returns [0]
 *   PROCESSES      what the list of processes returns [0]
 *   PROCESS_MEMORY 0: the list does not say how much memory a process holds [1]
 *   OTHER          1: a process of somebody else holds the card [0]
 *   MIG            1: the card is split into instances [0]
 *   THROTTLE       reasons for a lowered clock [0]
 *   THROTTLE_MS    how long they last from the first call on [forever]
 *   CLOCK          clock of the multiprocessors in MHz [1980]
 *   SLOWDOWN       temperature at which the clock is halved [90]
 *   TEMPERATURE    of the card [41]
 *   ALL            what every call about a card returns [0]
 *
 * The card draws 100 W and holds 1 GB for nobody in particular. While a file `holder` lies beside
 * the library, it holds another 2 GB for the process whose number is in it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef COUNT
#define COUNT 1
#endif
#ifndef INIT
#define INIT 0
#endif
#ifndef ENERGY
#define ENERGY 0
#endif
#ifndef STEP_MS
#define STEP_MS 10
#endif
#ifndef POWER
#define POWER 0
#endif
#ifndef PROCESSES
#define PROCESSES 0
#endif
#ifndef PROCESS_MEMORY
#define PROCESS_MEMORY 1
#endif
#ifndef OTHER
#define OTHER 0
#endif
#ifndef MIG
#define MIG 0
#endif
#ifndef THROTTLE
#define THROTTLE 0
#endif
#ifndef THROTTLE_MS
#define THROTTLE_MS 1000000000LL
#endif
#ifndef CLOCK
#define CLOCK 1980
#endif
#ifndef SLOWDOWN
#define SLOWDOWN 90
#endif
#ifndef TEMPERATURE
#define TEMPERATURE 41
#endif
#ifndef ALL
#define ALL 0
#endif

#define WATTS 100
#define GIGABYTE 1000000000ULL
#define OWN (2 * GIGABYTE)

enum { INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };

typedef int nvmlReturn_t;
typedef void *nvmlDevice_t;

struct memory_v2 {
  unsigned version;
  unsigned long long total, reserved, free, used;
};
struct process {
  unsigned pid;
  unsigned long long used;
  unsigned gpu_instance, compute_instance;
};
struct utilization {
  unsigned gpu, memory;
};

static char cards[COUNT > 0 ? COUNT : 1];

static long long now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* The process that holds the card, or 0. */
static unsigned holder(void) {
  Dl_info library;
  char path[4096];
  unsigned pid = 0;
  if (!dladdr((void *)now_ms, &library)) return 0;
  snprintf(path, sizeof path - 8, "%s", library.dli_fname);
  char *name = strrchr(path, '/');
  strcpy(name ? name + 1 : path, "holder");
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  if (fscanf(file, "%u", &pid) != 1) pid = 0;
  fclose(file);
  return pid;
}

nvmlReturn_t nvmlInit_v2(void) { return INIT; }
nvmlReturn_t nvmlInitWithFlags(unsigned flags) { (void)flags; return INIT; }
nvmlReturn_t nvmlShutdown(void) { return 0; }
nvmlReturn_t nvmlSystemGetDriverVersion(char *out, unsigned n) {
  snprintf(out, n, "580.95.05");
  return 0;
}
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *n) { *n = COUNT; return 0; }
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned i, nvmlDevice_t *d) {
  if (i >= COUNT) return INVALID_ARGUMENT;
  *d = &cards[i];
  return 0;
}
nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *d) {
  for (int i = 0; i < COUNT; i++) {
    char own[64];
    snprintf(own, sizeof own, "GPU-fake-%d", i);
    if (!strcmp(own, uuid)) { *d = &cards[i]; return 0; }
  }
  return NOT_FOUND;
}
nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t d, unsigned *i) {
  *i = (unsigned)((char *)d - cards);
  return 0;
}
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t d, char *out, unsigned n) {
  (void)d;
  snprintf(out, n, "NVIDIA FAKE100");
  return 0;
}
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t d, char *out, unsigned n) {
  snprintf(out, n, "GPU-fake-%d", (int)((char *)d - cards));
  return 0;
}
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t d, struct memory_v2 *m) {
  (void)d;
  m->total = 80 * GIGABYTE;
  m->reserved = 0;
  m->used = GIGABYTE + (holder() ? OWN : 0);
  m->free = m->total - m->used;
  return 0;
}
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t d, unsigned *n, struct process *p) {
  (void)d;
  if (ALL) return ALL;
  if (PROCESSES) return PROCESSES;
  struct process all[2];
  unsigned count = 0;
  unsigned pid = holder();
  if (OTHER) all[count++] = (struct process){1, GIGABYTE, ~0u, ~0u};
  if (pid) all[count++] = (struct process){pid, PROCESS_MEMORY ? OWN : ~0ULL, ~0u, ~0u};
  if (!count) { *n = 0; return 0; }
  if (!p || *n < count) { *n = count; return INSUFFICIENT_SIZE; }
  memcpy(p, all, count * sizeof *all);
  *n = count;
  return 0;
}
nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t d, unsigned long long *mj) {
  (void)d;
  long long steps = now_ms() / STEP_MS;
  *mj = (unsigned long long)(steps * STEP_MS * WATTS);
  return ALL ? ALL : ENERGY;
}
nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t d, unsigned *mw) {
  (void)d;
  *mw = WATTS * 1000;
  return ALL ? ALL : POWER;
}
nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t d, int kind, unsigned *mhz) {
  (void)d;
  *mhz = kind == 2 ? 2619 : CLOCK;
  return ALL;
}
nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t d, int kind, unsigned *mhz) {
  (void)d;
  *mhz = kind == 2 ? 2619 : 1980;
  return ALL;
}
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t d, int kind, unsigned *c) {
  (void)d, (void)kind;
  *c = TEMPERATURE;
  return ALL;
}
nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t d, int kind, unsigned *c) {
  (void)d, (void)kind;
  *c = SLOWDOWN;
  return ALL;
}
nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t d, struct utilization *u) {
  (void)d;
  u->gpu = 97;
  u->memory = 60;
  return ALL;
}
nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t d, unsigned long long *bits) {
  (void)d;
  static long long first;
  if (!first) first = now_ms();
  *bits = now_ms() - first < THROTTLE_MS ? THROTTLE : 0;
  return ALL;
}
nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t d, unsigned *current, unsigned *pending) {
  (void)d;
  *current = *pending = MIG;
  return ALL;
}
nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t d, int *mode) {
  (void)d;
  *mode = 0;
  return ALL;
}
