//! An interpreter of a small byte code: indirect jumps that depend on data.
#![cfg_attr(not(native), no_std, no_main)]
mod support;

use core::hint::black_box;

workload!();

/// Operations take their operand from the byte that follows.
const PUSH: u8 = 0;
const ADD: u8 = 1;
const MUL: u8 = 2;
const XOR: u8 = 3;
const LOAD: u8 = 4;
const STORE: u8 = 5;
const DECREMENT: u8 = 6;
const JUMP_IF: u8 = 7;
const DUPLICATE: u8 = 8;
const SHIFT: u8 = 9;
const HALT: u8 = 10;

/// x = ((x * 3 + counter) ^ (x >> 5)) + 7, until the counter in variable 0 is zero.
const PROGRAM: &[u8] = &[
    LOAD, 1, DUPLICATE, 0, SHIFT, 5, LOAD, 1, PUSH, 3, MUL, 0, LOAD, 0, ADD, 0, XOR, 0, PUSH, 7, ADD, 0,
    STORE, 1, STORE, 2, DECREMENT, 0, JUMP_IF, 0, HALT, 0,
];

#[inline(never)]
fn interpret(program: &[u8], counter: u64) -> u64 {
    let (mut stack, mut top, mut variables, mut at) = ([0u64; 16], 0usize, [counter, 1, 0, 0], 0);
    while let [operation, operand, ..] = program[at..] {
        at += 2;
        match operation {
            PUSH => {
                stack[top & 15] = u64::from(operand);
                top += 1;
            }
            ADD => {
                top -= 1;
                stack[(top - 1) & 15] = stack[(top - 1) & 15].wrapping_add(stack[top & 15]);
            }
            MUL => {
                top -= 1;
                stack[(top - 1) & 15] = stack[(top - 1) & 15].wrapping_mul(stack[top & 15]);
            }
            XOR => {
                top -= 1;
                stack[(top - 1) & 15] ^= stack[top & 15];
            }
            LOAD => {
                stack[top & 15] = variables[usize::from(operand & 3)];
                top += 1;
            }
            STORE => {
                top -= 1;
                variables[usize::from(operand & 3)] = stack[top & 15];
            }
            DECREMENT => variables[usize::from(operand & 3)] -= 1,
            JUMP_IF => {
                if variables[0] != 0 {
                    at = usize::from(operand);
                }
            }
            DUPLICATE => {
                stack[top & 15] = stack[(top - 1) & 15];
                top += 1;
            }
            SHIFT => stack[(top - 1) & 15] >>= operand & 63,
            _ => break,
        }
    }
    variables[1]
}

fn run() -> u64 {
    interpret(black_box(PROGRAM), black_box(1_000_000))
}
