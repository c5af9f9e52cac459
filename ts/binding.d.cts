/** The types of the addon, made by `npm run build:addon` from crates/squib-node. */

/** The aarch64 state of a vCPU. `ts/arm64.ts` is its face. */
export declare class NativeArm64 {
  /** General-purpose registers. */
  registers(): Arm64Registers
  /** Sets them. */
  setRegisters(registers: Arm64Registers): void
  /** Vector and floating-point registers. */
  vectorRegisters(): Arm64VectorRegisters
  /** Sets them. */
  setVectorRegisters(registers: Arm64VectorRegisters): void
  /** A system register, by its encoding. */
  systemRegister(encoding: number): bigint
  /** Sets one. */
  setSystemRegister(encoding: number, value: bigint): void
  /** The encodings of the system registers that make up the state of a vCPU. */
  systemRegisterList(): Array<number>
  /** Whether it runs. */
  powerState(): Arm64PowerState
  /** Starts or stops it. */
  setPowerState(state: Arm64PowerState): void
}

/** A machine. `ts/machine.ts` is its face. */
export declare class NativeMachine {
  /** Runs all vCPUs, each on a thread of its own, until the machine ends or a device fails. */
  run(): Promise<Outcome | ErrorValue>
  /** Ends the machine: as timed out, or as aborted. */
  end(timedOut: boolean): Outcome
  /** Its RAM. */
  memory(): NativeMemory
  /** What was loaded. */
  boot(): BootReport
  /** What it has done so far. */
  stats(): MachineStats
  /** Takes the output that waits. */
  takeOutput(): Uint8Array
  /** Whether the guest waits while nobody takes its output; else its oldest output is lost. */
  waitForReader(wait: boolean): void
  /** Bytes of output that were lost because nobody took them in time. */
  lostOutput(): number
  /** Gives the guest input, and says how many bytes of it were taken. */
  sendInput(bytes: Uint8Array): number
  /** Gives `length` ports from `base` to device `device` of the dispatch function. */
  mapPorts(name: string, base: number, length: number, device: number): void
  /** Gives `length` guest-physical addresses from `base` to device `device` of the dispatch function. */
  mapMmio(name: string, base: number, length: number, device: number): void
  /** Takes away the ports from `base`. */
  unmapPorts(base: number): void
  /** Takes away the addresses from `base`. */
  unmapMmio(base: number): void
  /** Puts a doorbell at a port or address, and gives its number. `heard` is told how often it was rung. */
  mapDoorbell(doorbell: DoorbellParts, heard: (rings: number) => void): number
  /** Takes away the doorbell of this number. */
  unmapDoorbell(doorbell: number): void
  /** Sets the level of an interrupt line that the board does not use. */
  setIrqLine(gsi: number, level: boolean): void
  /**
   * Ends the machine and lets go of everything. A vCPU that waits for a device's answer gets it first. Further
   * calls change nothing.
   */
  close(): void
}

/** The RAM of a VM. */
export declare class NativeMemory {
  /** The regions, ascending. */
  regions(): Array<MemoryRegion>
  /**
   * Windows over all RAM, or none where the engine allows no foreign memory. To be called once: two
   * `ArrayBuffer`s over the same memory are not allowed.
   */
  windows(): Array<MemoryWindow>
  /** Copies `length` bytes out. */
  read(addr: number, length: number): Uint8Array
  /** Copies `data` in. */
  write(addr: number, data: Uint8Array): void
  /** Sets `length` bytes to `byte`. */
  fill(addr: number, byte: number, length: number): void
  /** Writes the low `width` (1, 2 or 4) bytes of `value`, little-endian. */
  setNumber(addr: number, width: number, value: number): void
  /** Writes 8 bytes, little-endian. */
  setBigint(addr: number, value: bigint): void
  /**
   * Lets go of the RAM, and takes it away from these windows, which must be all. Without that it would stay
   * until JavaScript collects its garbage.
   */
  close(windows: ArrayBuffer[]): void
}

/** A vCPU. `ts/vcpu.ts` is its face. */
export declare class NativeVcpu {
  /** Its number. */
  get id(): number
  /** Answers the last exit and runs the guest on this thread until the next that no device claims. */
  run(entry?: VmEntry | undefined | null): VmExit
  /** The same on a thread of its own. */
  runAsync(entry?: VmEntry | undefined | null): Promise<VmExit | ErrorValue>
  /** Makes the run under way, or else the next one, return `cancelled`. */
  cancel(): void
  /** Makes runs return `budgetSpent` after about this many instructions; nothing takes the limit away. */
  setBudget(instructions?: bigint | undefined | null): void
  /** Guest instructions executed up to the end of the last run, where the backend counts them. */
  instructions(): bigint | null
  /** Exits so far, by kind, those that devices answered included. */
  exitCounts(): Array<ExitCount>
  /** Delivers an external interrupt at the next entry, where the VM has no interrupt controller. */
  injectInterrupt(vector: number): void
  /** Makes runs return `interruptWindow` once the guest can take an interrupt. */
  requestInterruptWindow(wanted: boolean): void
  /** Raises a non-maskable interrupt. */
  injectNmi(): void
  /** Its state on aarch64. */
  arm64(): NativeArm64
  /** General-purpose registers, instruction pointer and flags. */
  registers(): Registers
  /** Sets them. */
  setRegisters(registers: Registers): void
  /** Segments and control registers. */
  systemRegisters(): SystemRegisters
  /** Sets them. */
  setSystemRegisters(registers: SystemRegisters): void
  /** Debug registers. */
  debugRegisters(): DebugRegisters
  /** Sets them. */
  setDebugRegisters(registers: DebugRegisters): void
  /** A model-specific register. */
  msr(index: number): bigint
  /** Sets one. */
  setMsr(index: number, value: bigint): void
  /** The MSRs that make up the state of a vCPU. */
  msrIndices(): Array<number>
  /** x87, SSE and further state in the standard XSAVE format. */
  xsave(): Uint8Array
  /** Sets it. */
  setXsave(area: Uint8Array): void
  /** Extended control register 0. */
  xcr0(): bigint
  /** Sets it. */
  setXcr0(value: bigint): void
  /** Events on their way into the vCPU. */
  pendingEvents(): PendingEvents
  /** Sets them. */
  setPendingEvents(events: PendingEvents): void
  /** What CPUID says. */
  cpuid(leaf: number, subleaf: number): CpuidResult
}

/** A VM. `ts/vm.ts` is its face. */
export declare class NativeVm {
  /** Makes a VM with `memory` bytes of RAM, vCPUs of the model `cpu` and dirty rings of so many entries. `dispatch` answers device accesses that it finds in `record`. */
  static create(backend: BackendKind, memory: number, irqchip: IrqchipKind, cpu: string | undefined | null, dirtyRing: number | undefined | null, record: Uint32Array, dispatch: () => void): NativeVm
  /** Its RAM. */
  memory(): NativeMemory
  /** Makes the vCPU with local APIC number `id`. */
  createVcpu(id: number): NativeVcpu
  /** Gives `length` ports from `base` to device `device` of the dispatch function. */
  mapPorts(name: string, base: number, length: number, device: number): void
  /** Gives `length` guest-physical addresses from `base` to device `device` of the dispatch function. */
  mapMmio(name: string, base: number, length: number, device: number): void
  /** Takes away the ports from `base`. */
  unmapPorts(base: number): void
  /** Takes away the addresses from `base`. */
  unmapMmio(base: number): void
  /** Puts a doorbell at a port or address, and gives its number. `heard` is told how often it was rung. */
  mapDoorbell(doorbell: DoorbellParts, heard: (rings: number) => void): number
  /** Takes away the doorbell of this number. */
  unmapDoorbell(doorbell: number): void
  /** Sets the level of an interrupt line. */
  setIrqLine(gsi: number, level: boolean): void
  /** Delivers a message-signalled interrupt. */
  signalMsi(address: number, data: number): void
  /** Starts or stops recording of pages that the guest writes. */
  setDirtyLog(enabled: boolean): void
  /** Addresses of the pages written since the last call. */
  takeDirtyPages(): Array<number>
  /**
   * Ends all runs and lets go of everything. One that waits for a device's answer gets it first. Further calls
   * change nothing.
   */
  close(): void
}

/** What a backend's guests run on. */
export type Architecture = 'x86_64' | 'arm64'

/** Whether a vCPU runs or waits to be started (PSCI, DEN 0022, 5.1.4 `CPU_ON`). */
export type Arm64PowerState = 'on' | 'off'

/** General-purpose registers, stack pointers, program counter and processor state. */
export interface Arm64Registers {
  /** X0 to X30, 31 of them. */
  x: Array<bigint>
  /** SP_EL0: the stack of programs, and of EL1 while PSTATE.SP is 0. */
  spEl0: bigint
  /** SP_EL1. */
  spEl1: bigint
  /** Address of the next instruction. */
  pc: bigint
  /** PSTATE in the form of SPSR_EL1 (Arm ARM, DDI 0487, C5.2.19). */
  pstate: bigint
}

/** V0 to V31 and the registers that control them. */
export interface Arm64VectorRegisters {
  /** V0 to V31, 32 of them, of 128 bits each. */
  v: Array<bigint>
  /** FPSR: floating-point status, 32 bits. */
  fpsr: number
  /** FPCR: floating-point control, 32 bits. */
  fpcr: number
}

/** What a backend can do here. */
export declare function backendCapabilities(backend: BackendKind): BackendCapabilities

/** What a backend can do. */
export interface BackendCapabilities {
  /** What its guests run on. */
  architecture: Architecture
  /** The kinds of exit that it can produce. */
  exits: VmExit['kind'][]
  /** Most vCPUs of a VM. */
  maxVcpus: number
  /** Whether it can tell which pages a guest wrote. */
  dirtyTracking: boolean
  /** Most entries of a dirty ring, where VMs can have those. */
  dirtyRing?: number
  /** Whether each vCPU exit reaches the caller. */
  exposesExits: boolean
  /** The interrupt controllers that it can host. */
  irqchips: Array<IrqchipKind>
  /** The GIC that the irqchip `full` is; only on aarch64. */
  gic?: GicVersion
  /** Whether an instruction budget can be set. */
  instructionBudget: boolean
  /** Frequency of the guest's time-stamp counter in kHz, where it is fixed. */
  tscKhz?: number
}

/** The backends that can be named. */
export type BackendKind = 'kvm' | 'soft'

/** What was loaded. */
export interface BootReport {
  /** By which protocol the guest is entered: `pvh`, `linux64`, `multiboot`, `firmware`, `flat` or `arm64`. */
  protocol: string
  /** Guest-physical address of the first instruction. */
  entry: bigint
  /** Version text of a bzImage. */
  kernelVersion?: string
  /** Size of the kernel after unpacking, in bytes. */
  unpackedSize: number
}

/** One CPUID result. */
export interface CpuidResult {
  eax: number
  ebx: number
  ecx: number
  edx: number
}

/**
 * Builds a machine on a thread of its own, because unpacking a kernel takes a while. `dispatch` answers device
 * accesses that it finds in `record`; `console` is told 0 when output waits and 1 when there is room for input.
 */
export declare function createMachine(backend: BackendKind, parts: MachineParts, record: Uint32Array, dispatch: () => void, console: (event: number) => void): Promise<NativeMachine | ErrorValue>

/** DR0–DR3, DR6, DR7. */
export interface DebugRegisters {
  /** Breakpoint addresses, four of them. */
  db: Array<bigint>
  /** Status. */
  dr6: bigint
  /** Control. */
  dr7: bigint
}

/**
 * The kernel command line when nobody asks for another. On an aarch64 host it is for either board: KVM's guests are aarch64
 * there and the soft backend's x86.
 */
export declare const DEFAULT_COMMAND_LINE: string

/** GDTR or IDTR. */
export interface DescriptorTable {
  /** Linear address. */
  base: bigint
  /** Offset of the last byte, 16 bits. */
  limit: number
}

/** Accesses to one device. */
export interface DeviceAccesses {
  /** The device's name. */
  name: string
  /** Its first port or address. */
  base: bigint
  /** Whether it is at ports, not in memory. */
  ports: boolean
  /** Reads so far. */
  reads: number
  /** Writes so far. */
  writes: number
}

/** Which writes ring a doorbell. */
export interface DoorbellParts {
  /** What it is called. */
  name: string
  /** Whether it is at a port, not in memory. */
  port: boolean
  /** Its port or address. */
  base: number
  /** Bytes of a write that rings. */
  length: number
  /** The only value that rings, if not all do. */
  value?: bigint
}

/** The stable codes of all errors. */
export declare function errorCodes(): Array<string>

/** The exit status of a process that failed with the error of this code. */
export declare function errorStatus(code: string): number

/** An error as a promise carries it. */
export interface ErrorValue {
  /** The stable code, beginning with `ERR_`. */
  code: string
  /** What was wrong and what to do. */
  message: string
}

/** How many exits of a kind there were. */
export interface ExitCount {
  /** The kind. */
  kind: VmExit['kind']
  /** How many. */
  count: number
}

/** Which generic interrupt controller a backend has on aarch64. */
export type GicVersion = 'v2' | 'v3'

/**
 * Decodes `code`, the first byte of which is at `address`, as code of 16, 32 or 64 bits. Ends with the first bytes
 * that are no instruction.
 */
export declare function inspect(code: Uint8Array, bits: number, address: bigint): Array<InspectedInstruction>

/** An instruction and what it means. */
export interface InspectedInstruction {
  /** Address of its first byte. */
  address: bigint
  /** Its bytes; what is left of them where they are no instruction. */
  bytes: Uint8Array
  /** In assembly, destination first; nothing where the bytes are no instruction. */
  text?: string
  /**
   * What a processor does where the bytes are no instruction: `#UD`, or `#GP` for one of more than 15 bytes;
   * `truncated` where more bytes would make one.
   */
  error?: '#UD' | '#GP' | 'truncated'
  /** Its operations as every tier of the soft backend gets them, in order. */
  operations: Array<string>
}

/** Which interrupt controllers live inside the backend. */
export type IrqchipKind = 'none' | 'split' | 'full'

/** What the machine's KVM is worth. */
export interface KvmReport {
  /** What was tried, in order. */
  steps: Array<ProbeStep>
  /** Version of the interface. */
  apiVersion?: number
  /** Speed of kernel code (ring 0, EL1), in millions of instructions a second. */
  kernelMips?: number
  /** Frequency of the guest's time-stamp counter in kHz. */
  tscKhz?: number
  /** The kernel's capabilities that squib knows a use for. */
  capabilities: Record<string, number>
  /** Whether guests as large as Linux run here as hardware runs them. */
  runsGuestsAtSpeed: boolean
  /** Why the verdict is what it is. */
  reason: string
}

/** What a machine is made of. */
export interface MachineParts {
  /** RAM in bytes. */
  memory: number
  /** How many vCPUs. */
  cpus: number
  /** Their model. */
  cpu?: string
  /** Interrupt controllers inside the backend. */
  irqchip: IrqchipKind
  /** Kernel, program or firmware image. */
  kernel: Uint8Array
  /** The image is firmware, which is entered at the reset vector. */
  firmware?: boolean
  /** The board has the device that kvm-unit-tests look for. */
  testDevice?: boolean
  /** Initial RAM disk. */
  initrd?: Uint8Array
  /** Kernel command line. */
  commandLine: string
}

/** What a machine has done so far. */
export interface MachineStats {
  /** Exits of all vCPUs by kind. */
  exits: Partial<Record<VmExit['kind'], number>>
  /** Accesses to each device. */
  devices: Array<DeviceAccesses>
  /** Accesses that met no device. */
  openBus: number
  /** Accesses to model-specific registers that do not exist, up to the end of the last run; each raised #GP(0). */
  unknownMsrs: number
  /** Guest instructions up to the end of the last run, where the backend counts them. */
  instructions?: bigint
  /** Milliseconds from the machine's creation to the first byte on the console. */
  firstOutputMs?: number
  /** Milliseconds from the machine's creation to the start of Linux's first process, if the console told. */
  userspaceMs?: number
  /** Whether the guest's kernel has said that it panicked. */
  panicked: boolean
}

/** A run of guest RAM. */
export interface MemoryRegion {
  /** Guest-physical address of the first byte. */
  address: number
  /** Length in bytes. */
  length: number
}

/** Part of guest RAM that JavaScript can read without a call. */
export interface MemoryWindow {
  /** Guest-physical address of the first byte. */
  address: number
  /** The bytes. For reading only: writes must go through [`NativeMemory`]. */
  buffer: ArrayBuffer
}

/** Why a model-specific-register access left the backend. */
export type MsrReason = 'unknown' | 'invalid' | 'filter'

/** How a machine ended. */
export interface Outcome {
  /** What ended it. */
  kind: OutcomeKind
  /** The exit status of a process that ran it. */
  status: number
  /** What the guest wrote to the debug-exit port, if that ended it. */
  value?: number
  /** The exit that nobody could go on from, if that ended it. */
  exit?: VmExit
}

/** The names of the outcomes. */
export type OutcomeKind = 'powerOff' | 'debugExit' | 'reset' | 'kernelPanic' | 'tripleFault' | 'failed' | 'timedOut' | 'aborted'

/** What is on its way into a vCPU but not yet in its registers. */
export interface PendingEvents {
  /** Exception to deliver. */
  exception?: PendingException
  /** Vector, 0–255, of an external interrupt already acknowledged, to deliver. */
  interrupt?: number
  /** An NMI is pending. */
  nmiPending: boolean
  /** NMIs are blocked until IRET. */
  nmiMasked: boolean
  /** The instruction before was STI or MOV SS. */
  interruptShadow: boolean
}

/** An exception on its way into a vCPU. */
export interface PendingException {
  /** Vector, 0–255. */
  vector: number
  /** Error code, where the exception has one. */
  errorCode?: number
}

/** Tries the machine's KVM with small guests. Takes a fraction of a second at most. */
export declare function probeKvm(): KvmReport

/** How one step of a probe went. */
export interface ProbeStep {
  /** What was tried. */
  name: string
  /** Whether it works; nothing when an earlier step failed. */
  works?: boolean
  /** Why it does not work, and what to do. */
  why?: string
}

/** General-purpose registers, instruction pointer and flags. */
export interface Registers {
  rax: bigint
  rcx: bigint
  rdx: bigint
  rbx: bigint
  rsp: bigint
  rbp: bigint
  rsi: bigint
  rdi: bigint
  r8: bigint
  r9: bigint
  r10: bigint
  r11: bigint
  r12: bigint
  r13: bigint
  r14: bigint
  r15: bigint
  rip: bigint
  rflags: bigint
}

/** A segment register with its hidden part. */
export interface Segment {
  /** Linear address of byte 0. */
  base: bigint
  /** Offset of the last byte, in bytes. */
  limit: number
  /** The visible selector, 16 bits. */
  selector: number
  /** Type field, 4 bits. */
  kind: number
  /** Descriptor privilege level, 0–3. */
  dpl: number
  /** P: present. */
  present: boolean
  /** S: code or data, not system. */
  codeOrData: boolean
  /** L: 64-bit code. */
  long: boolean
  /** D/B: 32-bit default size. */
  big: boolean
  /** G: limit counted in pages. */
  granularity: boolean
  /** AVL: free for software. */
  available: boolean
  /** Loaded with a null selector, so unusable. */
  unusable: boolean
}

/** What a system event is about. */
export type SystemEventKind = 'shutdown' | 'reset' | 'crash' | 'wakeup' | 'suspend' | 'other'

/** Segments, descriptor tables and control registers. */
export interface SystemRegisters {
  es: Segment
  cs: Segment
  ss: Segment
  ds: Segment
  fs: Segment
  gs: Segment
  ldt: Segment
  tr: Segment
  gdt: DescriptorTable
  idt: DescriptorTable
  cr0: bigint
  cr2: bigint
  cr3: bigint
  cr4: bigint
  cr8: bigint
  efer: bigint
  apicBase: bigint
}

/** The answer to the last exit: `squib_core::VmEntry` as a union of objects told apart by `kind`. */
export type VmEntry =
  | { kind: 'resume' }
  | { kind: 'read'; /** The bytes, little-endian. */
  data: Uint8Array }
  | { kind: 'hypercall'; /** Goes into the return register. */
  value: bigint }
  | { kind: 'msr'; /** Goes into EDX:EAX. */
  value: bigint }
  | { kind: 'msrFault' }
  | { kind: 'complete'; /** The answer, where the access is a read. */
  data?: Uint8Array }

/** Why a vCPU came back: `squib_core::VmExit` as a union of objects told apart by `kind`. */
export type VmExit =
  | { kind: 'mmio'; /** Guest-physical address of the first byte. */
    addr: bigint; /** Whether the guest wrote; else it reads and waits for a `read` entry. */
    write: boolean; /** What the guest wrote, or as many zero bytes as it wants to read. */
  data: Uint8Array }
  | { kind: 'pio'; /** Port number. */
    port: number; /** Whether the guest wrote; else it reads and waits for a `read` entry. */
    write: boolean; /** What the guest wrote, or as many zero bytes as it wants to read: 1, 2 or 4. */
  data: Uint8Array }
  | { kind: 'hypercall'; /** Function number; on aarch64 X0. */
    func: bigint; /** The six argument registers; on aarch64 X1 to X6. */
  args: Array<bigint> }
  | { kind: 'wfi' }
  | { kind: 'wfe' }
  | { kind: 'hlt' }
  | { kind: 'reset' }
  | { kind: 'shutdown' }
  | { kind: 'debug'; /** Address of the instruction. */
    pc: bigint; /** DR6 in the low, the exception vector in the high 32 bits; on aarch64 ESR_ELx. */
  syndrome: bigint }
  | { kind: 'internalError'; /** For people. */
  message: string }
  | { kind: 'cancelled' }
  | { kind: 'completed' }
  | { kind: 'budgetSpent' }
  | { kind: 'msrRead'; /** Register index. */
    index: number; /** Why it came here. */
  reason: MsrReason }
  | { kind: 'msrWrite'; /** Register index. */
    index: number; /** The value. */
    value: bigint; /** Why it came here. */
  reason: MsrReason }
  | { kind: 'eoi'; /** The vector that ended. */
  vector: number }
  | { kind: 'interruptWindow' }
  | { kind: 'tripleFault' }
  | { kind: 'memoryFault'; /** First guest-physical address. */
    addr: bigint; /** Length in bytes. */
    size: bigint; /** The backend's own flags. */
  flags: bigint }
  | { kind: 'dirtyRingFull' }
  | { kind: 'systemEvent'; /** What happened. */
    event: SystemEventKind; /** The backend's number of an event that has no name; else 0. */
    number: number; /** Further words that came with it. */
  data: Array<bigint> }
  | { kind: 'failedEntry'; /** Reason as the hardware gives it. */
    reason: bigint; /** Number of the host CPU. */
  cpu: number }
  | { kind: 'unsupported'; /** For people. */
    what: string; /** Address of the instruction. */
  rip: bigint }
  | { kind: 'unknown'; /** The backend's number for it. */
  reason: number }
