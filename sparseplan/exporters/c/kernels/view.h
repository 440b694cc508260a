/* Views: arrays over one or several places of the arena, in any storage type. */

enum { SP_FP32, SP_BF16, SP_FP16, SP_INT8, SP_U8, SP_I32, SP_BIT, SP_CODES };

/* Where a box of an array lies: channels [c0, c1) and rows [r0, r1), channel by channel or row by row. */
typedef struct {
    uint32_t offset;
    uint32_t c0, c1, r0, r1;
    uint8_t level, by_row;
} sp_part;

/* An array of `count` elements a sample, in boxes of an image (height, width); (1, 1) where it is no image. */
typedef struct {
    uint32_t count, height, width;
    uint32_t part, parts;  /* first of sp_parts, and their number */
    uint32_t scales, group; /* of SP_CODES: the view of scales, and the elements that share one */
    float scale;           /* of SP_INT8 */
    uint8_t type, add, whole;
    uint8_t batch;         /* 0: the same for every sample */
} sp_view;

typedef struct {
    uint16_t kernel, step;
    uint16_t reads, writes;
    uint32_t views; /* first of sp_indices: those read, then those written */
    uint32_t ints, floats;
} sp_call;

/* What a kernel is given: its views by number, and the numbers that its op is described by. */
typedef struct {
    const uint16_t *r, *w;
    uint16_t reads, writes;
    const int32_t *n;
    const float *f;
} sp_args;

/* What comes from the caller, and goes back. */
typedef struct {
    const void *const *data;
    float lr, samples, loss;
    uint32_t number;
} sp_env;

/* A run of `run` adjoining elements: `at` elements behind `p`; zeros where `p` is null. */
typedef struct {
    const uint8_t *p;
    uint32_t at, run;
    float scale;
} sp_seg;

typedef float (*sp_f1)(float, const float *);
typedef float (*sp_f2)(float, float, const float *);
typedef float (*sp_f3)(float, float, float, const float *);
