//! PROG_TEST_RUN tests of the demultiplexer on packet fixtures.
