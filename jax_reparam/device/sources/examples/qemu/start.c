// What a program needs to start on QEMU's boards mps2-an386 (Cortex-M4F) and mps3-an547 (Cortex-M55), beside newlib.
extern unsigned char stack_top[];
extern void _start(void);

static void Reset(void) {
  *(volatile unsigned*)0xE000ED88 |= 0xF << 20;  // floating point on
  __asm volatile("dsb\n isb");
  _start();
}

static void Fault(void) {
  for (;;) __asm volatile("bkpt 1");
}

// A program that wants the clock's interrupt defines it.
__attribute__((weak)) void SysTick_Handler(void) {}

__attribute__((section(".vectors"), used)) static void* const vectors[] = {
    stack_top, Reset, Fault, Fault, Fault, Fault, Fault, 0, 0, 0, 0, Fault, Fault, 0, Fault, SysTick_Handler};

// For printf.
void* _sbrk(int bytes) {
  static char heap[1 << 16];
  static char* end = heap;
  char* old = end;
  end += bytes;
  return old;
}
