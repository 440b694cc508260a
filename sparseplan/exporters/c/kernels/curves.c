/* Smooth curves (f), and gradients from the output or the input (g), or from the input through the output (h). */

static float sp_f_exp(float x, const float *p) {
    (void)p;
    return expf(x);
}

static float sp_g_exp(float dy, float y, const float *p) {
    (void)p;
    return dy * y;
}

static float sp_h_exp(float dy, float x, const float *p) {
    return sp_g_exp(dy, sp_f_exp(x, p), p);
}

static float sp_f_sqrt(float x, const float *p) {
    (void)p;
    return sqrtf(x);
}

static float sp_g_sqrt(float dy, float y, const float *p) {
    (void)p;
    return dy * (0.5f / y);
}

static float sp_h_sqrt(float dy, float x, const float *p) {
    return sp_g_sqrt(dy, sp_f_sqrt(x, p), p);
}

static float sp_f_reciprocal(float x, const float *p) {
    (void)p;
    return 1.0f / x;
}

static float sp_g_reciprocal(float dy, float y, const float *p) {
    (void)p;
    return dy * (-y * y);
}

static float sp_h_reciprocal(float dy, float x, const float *p) {
    return sp_g_reciprocal(dy, sp_f_reciprocal(x, p), p);
}

/* log(1 + exp(x)) without overflow */
static float sp_f_softplus(float x, const float *p) {
    (void)p;
    return log1pf(expf(-fabsf(x))) + (x > 0.0f ? x : 0.0f);
}

static float sp_g_softplus(float dy, float y, const float *p) {
    (void)p;
    return dy * -expm1f(-y);
}

static float sp_h_softplus(float dy, float x, const float *p) {
    return sp_g_softplus(dy, sp_f_softplus(x, p), p);
}

static float sp_f_softsign(float x, const float *p) {
    (void)p;
    return x / (1.0f + fabsf(x));
}

static float sp_g_softsign(float dy, float y, const float *p) {
    float left = 1.0f - fabsf(y);
    (void)p;
    return dy * (left * left);
}

static float sp_h_softsign(float dy, float x, const float *p) {
    return sp_g_softsign(dy, sp_f_softsign(x, p), p);
}

/* elu, selu, celu; p: scale, scale * a, b */
static float sp_f_exponential(float x, const float *p) {
    return x > 0.0f ? x * p[0] : expm1f(x / p[2]) * p[1];
}

static float sp_g_exponential(float dy, float y, const float *p) {
    return dy * (y > 0.0f ? p[0] : (y + p[1]) / p[2]);
}

static float sp_h_exponential(float dy, float x, const float *p) {
    return sp_g_exponential(dy, sp_f_exponential(x, p), p);
}

static float sp_f_log(float x, const float *p) {
    (void)p;
    return logf(x);
}

static float sp_g_log(float dy, float x, const float *p) {
    (void)p;
    return dy * (1.0f / x);
}

static float sp_f_square(float x, const float *p) {
    (void)p;
    return x * x;
}

static float sp_g_square(float dy, float x, const float *p) {
    (void)p;
    return dy * (x + x);
}

static float sp_f_power(float x, const float *p) {
    return powf(x, p[0]);
}

static float sp_g_power(float dy, float x, const float *p) {
    return p[0] == 0.0f ? dy * 0.0f : dy * (p[0] * powf(x, p[1]));
}

static float sp_f_erf(float x, const float *p) {
    (void)p;
    return erff(x);
}

static float sp_g_erf(float dy, float x, const float *p) {
    (void)p;
    return dy * (expf(-x * x) * 1.12837916709551257f);
}

static float sp_f_sin(float x, const float *p) {
    (void)p;
    return sinf(x);
}

static float sp_g_sin(float dy, float x, const float *p) {
    (void)p;
    return dy * cosf(x);
}

static float sp_f_cos(float x, const float *p) {
    (void)p;
    return cosf(x);
}

static float sp_g_cos(float dy, float x, const float *p) {
    (void)p;
    return dy * -sinf(x);
}

static float sp_held(float x) {
    return x < -40.0f ? -40.0f : x > 40.0f ? 40.0f : x;
}

static float sp_f_gelu(float x, const float *p) {
    (void)p;
    return x * (0.5f * (1.0f + erff(x * 0.70710678118654752f)));
}

static float sp_g_gelu(float dy, float x, const float *p) {
    float z = sp_held(x);
    (void)p;
    return dy * (0.5f * (1.0f + erff(x * 0.70710678118654752f)) + z * expf(-0.5f * z * z) * 0.39894228040143268f);
}

static float sp_gelu_share(float z) {
    return 0.5f * (1.0f + tanhf(0.79788456080286536f * z * (1.0f + 0.044715f * z * z)));
}

static float sp_f_gelu_tanh(float x, const float *p) {
    (void)p;
    return x * sp_gelu_share(sp_held(x));
}

static float sp_g_gelu_tanh(float dy, float x, const float *p) {
    float z = sp_held(x), share = sp_gelu_share(z);
    (void)p;
    return dy * (share + z * (2.0f * share * (1.0f - share)) * (0.79788456080286536f * (1.0f + 0.134145f * z * z)));
}

static float sp_f_silu(float x, const float *p) {
    (void)p;
    return x * sp_sigmoid_of(x);
}

static float sp_g_silu(float dy, float x, const float *p) {
    float share = sp_sigmoid_of(x);
    (void)p;
    return dy * (share + x * (share * (1.0f - share)));
}

static float sp_f_mish(float x, const float *p) {
    return x * tanhf(sp_f_softplus(x, p));
}

static float sp_g_mish(float dy, float x, const float *p) {
    float share = tanhf(sp_f_softplus(x, p));
    return dy * (share + x * ((1.0f - share * share) * sp_sigmoid_of(x)));
}

static float sp_f_clip(float x, const float *p) {
    return x < p[0] ? p[0] : x > p[1] ? p[1] : x;
}

static float sp_f_not_negative(float x, const float *p) {
    (void)p;
    return x >= 0.0f ? 1.0f : 0.0f;
}

static float sp_f_abs(float x, const float *p) {
    (void)p;
    return fabsf(x);
}

static float sp_g_abs(float dy, float x, const float *p) {
    (void)p;
    return x >= 0.0f ? dy : -dy;
}

static float sp_g_abs_mask(float dy, float mask, const float *p) {
    (void)p;
    return mask > 0.0f ? dy : -dy;
}

/* p: slope, offset */
static float sp_f_hard_sigmoid(float x, const float *p) {
    float line = x * p[0] + p[1];
    return line < 0.0f ? 0.0f : line > 1.0f ? 1.0f : line;
}

static float sp_f_hard_sigmoid_mask(float x, const float *p) {
    float line = x * p[0] + p[1];
    return line > 0.0f && line < 1.0f ? 1.0f : 0.0f;
}

static float sp_g_hard_sigmoid_mask(float dy, float mask, const float *p) {
    return mask > 0.0f ? dy * p[0] : dy * 0.0f;
}

static float sp_g_hard_sigmoid(float dy, float x, const float *p) {
    return sp_g_hard_sigmoid_mask(dy, sp_f_hard_sigmoid_mask(x, p), p);
}

static float sp_f_line(float x, const float *p) {
    return x * p[0] + p[1];
}

static float sp_f_floor(float x, const float *p) {
    (void)p;
    return floorf(x);
}

static float sp_f_ceil(float x, const float *p) {
    (void)p;
    return ceilf(x);
}

static float sp_f_round(float x, const float *p) {
    (void)p;
    return rintf(x);
}

static float sp_f_sign(float x, const float *p) {
    (void)p;
    return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x;
}
